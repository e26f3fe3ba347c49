package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

// fault is one thing that is made wrong in an installation in which all is well, and the one finding that must come of it.
type fault struct {
	plant   func(in *install)
	check   string
	subject string // a part of it
	level   Level
	text    string // a part of it
	remedy  string // a part of it
}

func smarthostFaults() map[string]fault {
	return map[string]fault{
		"wrong password at the smarthost": {func(in *install) { in.write("secrets/smarthost", "battery staple\n") },
			"routes", "provider smtp.provider.example:587", Error, `refuses the login of "relay": 535 5.7.8 Error: authentication failed`, "secrets/smarthost"},
		"certificate for another name": {func(in *install) {
			in.tlsFor = func() tls.Certificate { return in.ca.certificate(year, "mail.other.example") }
		}, "routes", "provider", Error, "its certificate is for mail.other.example, not for smtp.provider.example", "server_name"},
		"expired certificate": {func(in *install) {
			in.tlsFor = func() tls.Certificate { return in.ca.certificate(-time.Hour, "smtp.provider.example") }
		}, "routes", "provider", Error, "its certificate is good from", "clock"},
		"certificate that ends soon": {func(in *install) {
			in.tlsFor = func() tls.Certificate { return in.ca.certificate(100*time.Hour, "smtp.provider.example") }
		}, "routes", "provider", Warning, "in 4 days", "Tell who runs"},
		"certificate of an unknown authority": {func(in *install) {
			in.tlsFor = func() tls.Certificate { return newAuthority(in.t).certificate(year, "smtp.provider.example") }
		}, "routes", "provider", Error, "authority that is not known here (CN=Test CA)", "ca_file"},
		"STARTTLS not offered": {func(in *install) { in.tlsFor = nil },
			"routes", "provider", Error, "does not offer STARTTLS, which the route requires", "587"},
		"no mechanism in common": {func(in *install) {
			in.change("password_file: secrets/smarthost", "password_file: secrets/smarthost, mechanisms: [CRAM-MD5]")
		},
			"routes", "provider", Error, `it offers "PLAIN"`, "mechanisms"},
		"smarthost out of reach": {func(in *install) { in.change("smtp.provider.example:587", "smtp.provider.example:588") },
			"routes", "provider smtp.provider.example:588", Error, "cannot be reached", "firewall"},
		"smarthost takes small messages": {func(in *install) { in.smarthost.MaxMessageBytes = 1e6 },
			"routes", "provider", Warning, "takes messages of 1000000 bytes at most, and we take 25000000", "message_size"},
		"smarthost says nothing good": {func(in *install) {
			at := serve(in.t, func(c net.Conn) { _, _ = io.WriteString(c, "554 5.7.1 go away\r\n") })
			in.servers = &localServers{resolver: in.dns, hosts: map[string]string{"smtp.provider.example:587": at, "198.51.100.77:25": at}}
		}, "routes", "provider", Error, "refuses at greeting: 554 5.7.1 go away", "Ask who runs it"},
		"port 25 blocked": {func(in *install) {
			at := in.run(in.smarthost, in.tlsFor)
			in.servers = &localServers{resolver: in.dns, hosts: map[string]string{"smtp.provider.example:587": at}}
		}, "routes", "internet", Error, "no mail server can be reached on port 25: the exchanger mx.filter.example[198.51.100.77] of example.org", "open outgoing port 25"},
		"maildir that is a file": {func(in *install) { in.write("box", "") },
			"routes", "box", Error, "box is not a folder", "another path"},
	}
}

func dnsFaults() map[string]fault {
	record := func(in *install, name string) *string { return &in.dns.txt[name][0] }
	return map[string]fault{
		"missing DKIM record": {func(in *install) { delete(in.dns.txt, "s1._domainkey.example.org") },
			"dkim", "s1._domainkey.example.org", Error, "its record is not published", "Publish `s1._domainkey.example.org. IN TXT` with the value: v=DKIM1; k=ed25519; p="},
		"DKIM record of another key": {func(in *install) { *record(in, "s1._domainkey.example.org") = *record(in, "s1._domainkey.example.com") },
			"dkim", "s1._domainkey.example.org", Error, "holds another key", "Publish"},
		"DKIM record cut off": {func(in *install) { r := record(in, "s1._domainkey.example.org"); *r = (*r)[:len(*r)-9] },
			"dkim", "s1._domainkey.example.org", Error, "is cut off after 35 of 44 characters", "several character-strings"},
		"DKIM key revoked": {func(in *install) { *record(in, "s1._domainkey.example.org") = "v=DKIM1; k=ed25519; p=" },
			"dkim", "s1._domainkey.example.org", Error, "revoked", "another selector"},
		"several DKIM records": {func(in *install) {
			in.dns.txt["s1._domainkey.example.org"] = append(in.dns.txt["s1._domainkey.example.org"], *record(in, "s1._domainkey.example.com"))
		}, "dkim", "s1._domainkey.example.org", Error, "has 2 key records", "Leave the one"},
		"DKIM in test mode": {func(in *install) { *record(in, "s1._domainkey.example.org") += "; t=s:y" },
			"dkim", "s1._domainkey.example.org", Warning, "test mode", "t=y"},
		"DKIM key of another kind": {func(in *install) {
			r := record(in, "s1._domainkey.example.org")
			*r = strings.Replace(*r, "k=ed25519; ", "", 1)
		},
			"dkim", "s1._domainkey.example.org", Error, "k=rsa, and the key is ed25519", "Publish"},
		"no SPF": {func(in *install) { in.dns.txt["example.org"] = []string{"unrelated=1"} },
			"spf", "example.org", Error, "has no SPF record", "`v=spf1 mx ip4:192.0.2.10 include:<as the provider of smtp.provider.example says> ~all`"},
		"SPF without us": {func(in *install) {
			*record(in, "example.org") = "v=spf1 ip4:192.0.2.99 include:_spf.provider.example -all"
		},
			"spf", "example.org", Error, "does not name 192.0.2.10", "Add ip4:192.0.2.10"},
		"SPF without the provider": {func(in *install) { *record(in, "example.org") = "v=spf1 ip4:192.0.2.10 -all" },
			"spf", "example.org", Warning, "smarthost smtp.provider.example (route provider)", "include:"},
		"SPF for everybody": {func(in *install) { r := record(in, "example.org"); *r = strings.Replace(*r, "-all", "+all", 1) },
			"spf", "example.org", Error, "the whole world", "~all"},
		"SPF without an end": {func(in *install) { r := record(in, "example.org"); *r = strings.Replace(*r, " -all", "", 1) },
			"spf", "example.org", Warning, "has no `all`", "~all"},
		"two SPF records": {func(in *install) { in.dns.txt["example.org"] = append(in.dns.txt["example.org"], "v=spf1 -all") },
			"spf", "example.org", Error, "has 2 SPF records", "one `all`"},
		"SPF with too many lookups": {func(in *install) {
			r := record(in, "example.org")
			*r = strings.Replace(*r, "-all", strings.Repeat("include:_spf.provider.example ", 10)+"-all", 1)
		}, "spf", "example.org", Error, "more than 10 questions", "includes"},
		"SPF that includes nothing": {func(in *install) {
			r := record(in, "example.org")
			*r = strings.Replace(*r, "-all", "include:gone.example -all", 1)
		},
			"spf", "example.org", Error, "cannot be evaluated", "include:"},
		"MX missing": {func(in *install) { delete(in.dns.mx, "example.com") },
			"mx", "example.com", Error, "has no MX record", "Publish `example.com. IN MX 10 relay.example.com.`"},
		"null MX": {func(in *install) { in.dns.mx["example.com"] = []string{"."} },
			"mx", "example.com", Error, "null MX", "Publish"},
		"MX without address": {func(in *install) { in.dns.mx["example.com"] = []string{"relay.example.com.", "gone.example.com."} },
			"mx", "example.com", Error, "the MX gone.example.com has no address", "A record"},
		"MX that is an alias": {func(in *install) {
			in.dns.mx["example.com"] = []string{"mail.example.com."}
			in.dns.alias["mail.example.com"] = "relay.example.com"
		}, "mx", "example.com", Warning, "is an alias (CNAME) of relay.example.com", "Name relay.example.com"},
		"PTR missing": {func(in *install) { delete(in.dns.ptr, "192.0.2.10") },
			"hostname", "192.0.2.10", Error, "has no reverse name", "set its reverse name (PTR) to relay.example.com"},
		"PTR not matching": {func(in *install) { in.dns.ptr["192.0.2.10"] = []string{"forged.example."} },
			"hostname", "192.0.2.10", Error, "forged.example does not lead back", "PTR"},
		"PTR of a home connection": {func(in *install) {
			in.dns.ptr["192.0.2.10"] = []string{"192-0-2-10.isp.example."}
			in.dns.ip["192-0-2-10.isp.example"] = []string{"192.0.2.10"}
		}, "hostname", "192.0.2.10", Warning, "looks like one of a home connection", "PTR"},
		"hostname not qualified": {func(in *install) {
			in.change("hostname: relay.example.com", "hostname: relay")
			in.ca.issue("smtp", in.path("tls", "cert.pem"), in.path("tls", "key.pem"), year, "relay")
			in.change("internet: {mx: {}}", "internet: {mx: {source: 192.0.2.10}}")
			in.dns.mx["example.com"] = in.dns.mx["example.org"]
		}, "hostname", "relay", Error, "not a fully qualified domain name", "relay.example.com"},
		"no DMARC record": {func(in *install) { delete(in.dns.txt, "_dmarc.example.org") },
			"dmarc", "example.org", Warning, "has no DMARC record", "_dmarc.example.org. IN TXT"},
		"two DMARC records": {func(in *install) {
			in.dns.txt["_dmarc.example.org"] = []string{"v=DMARC1; p=none", "v=DMARC1; p=reject"}
		},
			"dmarc", "example.org", Error, "has 2 records", "Leave one"},
		"DMARC policy misspelt": {func(in *install) { *record(in, "_dmarc.example.org") = "v=DMARC1; p=refuse" },
			"dmarc", "example.org", Error, "p=refuse is not none, quarantine or reject", "Correct"},
		"DNS out of order": {func(in *install) { in.dns.down["_dmarc.example.org"] = true },
			"dmarc", "example.org", Warning, "the DNS gives no answer", "/etc/resolv.conf"},
	}
}

func machineFaults(t *testing.T) map[string]fault {
	loose := startNATS(t, false)
	return map[string]fault{
		"port taken by another program": {func(in *install) {
			in.words["LISTEN"] = serve(in.t, func(c net.Conn) { _, _ = io.WriteString(c, "220 other.example ESMTP Postfix\r\n") })
		}, "ports", "mx 127.0.0.1:", Error, `greets with "220 other.example ESMTP Postfix"`, "ss -ltnp"},
		"address of another machine": {func(in *install) { in.words["LISTEN"] = "192.0.2.200:2525" },
			"ports", "mx 192.0.2.200:2525", Error, "not one of this machine", ":2525"},
		"disk full": {func(in *install) {
			in.disk.usage[in.path("data")] = DiskUsage{Free: 100e6, Size: 100e9, FreeInodes: 10, Inodes: 20}
		},
			"disk", "data_dir", Error, "100.0 MB of 100.0 GB free", "Make room"},
		"inodes used up": {func(in *install) {
			in.disk.usage[in.path("data")] = DiskUsage{Free: 90e9, Size: 100e9, FreeInodes: 10, Inodes: 2000}
		},
			"disk", "data_dir", Warning, "10 of 2000 inodes free", "inodes"},
		"temp_dir in memory": {func(in *install) {
			in.disk.usage[in.path("data", "tmp")] = DiskUsage{Free: 9e9, Size: 10e9, Kind: "tmpfs"}
		},
			"disk", "temp_dir", Warning, "in memory (tmpfs)", "temp_dir"},
		"data_dir on another machine": {func(in *install) {
			in.disk.usage[in.path("data")] = DiskUsage{Free: 90e9, Size: 100e9, Kind: "NFS", Network: true}
		},
			"disk", "data_dir", Warning, "network file system (NFS)", "disk of this machine"},
		"slow disk": {func(in *install) { in.disk.took = 80 * time.Millisecond },
			"disk", "data_dir", Warning, "a sync takes 80ms", "power-loss"},
		"disk that fails": {func(in *install) { in.disk.err = errors.New("input/output error") },
			"disk", "data_dir", Error, "input/output error", "dmesg"},
		"clock unsynchronised": {func(in *install) { in.clock.state.Synchronised = false },
			"clock", "", Warning, "nothing keeps the clock", "chrony"},
		"clock far off": {func(in *install) { in.clock.state.Error = 16 * time.Second },
			"clock", "", Warning, "wrong by 16s", "timedatectl"},
		"NATS not durable": {func(in *install) {
			in.words["NATS"], in.words["MONITOR"] = strings.TrimPrefix(loose.ClientURL(), "nats://"), loose.MonitorAddr().String()
		}, "nats", "nats://", Error, "acknowledges before it syncs", "stagecoach nats"},
		"NATS down": {func(in *install) { in.words["NATS"] = closed(in.t) },
			"nats", "nats://", Error, "no servers available", "Start the NATS server"},
		"clamd down": {func(in *install) { in.words["CLAMD"] = closed(in.t) },
			"clamd", "antivirus tcp://", Error, "connection refused", "Start clamd"},
		"old signatures": {func(in *install) {
			in.words["CLAMD"] = serveClamd(in.t, "ClamAV 1.4.1/27486/"+time.Now().Add(-9*24*time.Hour).UTC().Format(time.ANSIC))
		}, "clamd", "antivirus", Warning, "9 days old", "freshclam"},
		"clamd takes small messages": {func(in *install) { in.write("clamd.conf", "LogTime yes\nStreamMaxLength 10M\n") },
			"clamd", "antivirus", Warning, "10485760 bytes at most", "StreamMaxLength"},
		"password file readable by everybody": {func(in *install) { in.mode("secrets/smarthost", 0o644) },
			"configuration", "", Warning, "every user of this machine can", "chmod o="},
		"DKIM key readable by everybody": {func(in *install) { in.mode("data/keys/example.org/s1.pem", 0o604) },
			"configuration", "data/keys/example.org/s1.pem", Warning, "every user of this machine can", "chmod o="},
		"configuration with an error": {func(in *install) { in.change("deliver: provider", "deliver: provdier") },
			"configuration", "stagecoach.yaml:31:14", Error, `there is no route "provdier"; did you mean provider?`, "Correct it"},
		"certificate of a service expired": {func(in *install) {
			in.ca.issue("", in.path("pki/egress.pem"), in.path("pki/egress-key.pem"), -time.Hour, "egress")
		},
			"certificates", "egress.pem", Error, "ended on", "ca.pem"},
		"certificate of another service": {func(in *install) {
			in.ca.issue("", in.path("pki/egress.pem"), in.path("pki/egress-key.pem"), year, "signer")
		},
			"certificates", "egress.pem", Error, "is for signer; the name (SAN) of this service is egress", "ca.pem"},
		"certificate of another authority": {func(in *install) {
			newAuthority(in.t).issue("", in.path("pki/egress.pem"), in.path("pki/egress-key.pem"), year, "egress")
		}, "certificates", "egress.pem", Error, "the other services do not take it", "ca.pem"},
		"key of another certificate": {func(in *install) {
			in.ca.issue("", in.path("pki/egress.pem"), filepath.Join(in.t.TempDir(), "key"), year, "egress")
		}, "certificates", "egress.pem", Error, "cannot be used", "ca.pem"},
		"certificate for SMTP ends soon": {func(in *install) {
			in.ca.issue("", in.path("tls/cert.pem"), in.path("tls/key.pem"), 50*time.Hour, "relay.example.com")
		}, "certificates", "tls/cert.pem", Warning, "in 2 days", "Renew"},
		"certificate for SMTP of another name": {func(in *install) {
			in.ca.issue("", in.path("tls/cert.pem"), in.path("tls/key.pem"), year, "www.example.com")
		}, "certificates", "tls/cert.pem", Warning, "is for www.example.com, not for the hostname relay.example.com", "Get a certificate"},
		"another revision runs": {func(in *install) {
			in.admin.status = &adminv1.GetStatusResponse{Revision: "0123456789abcdef", Started: timestamppb.Now()}
		}, "running", "", Warning, "runs revision 0123456789ab", "restart"},
		"what the running instance knows": {func(in *install) {
			in.admin.status = &adminv1.GetStatusResponse{Problems: []*adminv1.Problem{{Severity: adminv1.Severity_SEVERITY_CRITICAL, Text: "the route provider is down"}}}
		}, "running", "", Error, "the route provider is down", "stagecoach status"},
	}
}

// mode changes who can read a file.
func (in *install) mode(name string, mode os.FileMode) {
	in.t.Helper()
	if err := os.Chmod(in.path(name), mode); err != nil {
		in.t.Fatal(err)
	}
}

// closed is an address of this machine on which nobody listens.
func closed(t *testing.T) string {
	t.Helper()
	var c net.ListenConfig
	l, err := c.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Each fault is found, once, by the check that it belongs to, and nothing else is said to be wrong.
func TestFaults(t *testing.T) {
	bus := startNATS(t, true)
	for _, table := range []map[string]fault{smarthostFaults(), dnsFaults(), machineFaults(t)} {
		for name, f := range table {
			t.Run(name, func(t *testing.T) {
				in := newInstall(t, bus)
				f.plant(in)
				var found []Finding
				for _, got := range in.look() {
					if got.Level == Warning || got.Level == Error {
						found = append(found, got)
					}
				}
				if len(found) != 1 {
					t.Fatalf("found %d: %+v", len(found), found)
				}
				got := found[0]
				if got.Check != f.check || got.Level != f.level || !strings.Contains(got.Subject, f.subject) || !strings.Contains(got.Text, f.text) {
					t.Errorf("got  %+v\nwant %s %s: %q: %q", got, f.level, f.check, f.subject, f.text)
				}
				if got.Remedy == "" || !strings.Contains(got.Remedy, f.remedy) {
					t.Errorf("remedy %q, want %q", got.Remedy, f.remedy)
				}
			})
		}
	}
}

// A domain without a key leaves unsigned, which two checks have an opinion about.
func TestNoKey(t *testing.T) {
	in := newInstall(t, startNATS(t, true))
	if err := os.RemoveAll(in.path("data", "keys", "example.org")); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range in.look() {
		if f.Level == Warning || f.Level == Error {
			got = append(got, f.Check+" "+f.Subject)
		}
	}
	if strings.Join(got, ", ") != "dkim example.org, dmarc example.org" {
		t.Errorf("%q", got)
	}
}
