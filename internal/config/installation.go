package config

import (
	"net/url"
	"os"
	"path/filepath"

	"github.com/stagecoachmail/stagecoach/mail"
)

// installation reads what concerns all services.
func (b *builder) installation() {
	raw, c := &b.raw, b.c
	c.Hostname = "localhost"
	if raw.Hostname.ok() {
		var err error
		if c.Hostname, err = hostName(raw.Hostname.V); err != nil {
			b.p.add(raw.Hostname.at, raw.Hostname.path, "%v", err)
		}
	}
	if v := &raw.Postmaster; v.ok() {
		a, err := mail.ParseAddress(v.V)
		if err != nil {
			b.p.add(v.at, v.path, "%q is not a mail address: %v", v.V, err)
		}
		c.Postmaster = a
	}
	c.Watch = b.oneOf(&raw.Reload, "watch", "watch", "manual") == "watch"
	c.DataDir = filepath.Join(c.Dir, "data")
	if raw.DataDir.set {
		c.DataDir = b.path(&raw.DataDir)
	}
	c.TempDir = filepath.Join(c.DataDir, "tmp")
	if raw.TempDir.set {
		c.TempDir = b.path(&raw.TempDir)
	}
	c.Egress.Address = b.service(&raw.Egress.V.Address)
	b.nats()
	b.pki()
}

// nats: the streams have 1 or 3 replicas; 2 would be no safer than 1, and stop when either is gone.
func (b *builder) nats() {
	raw, n := &b.raw.NATS.V, &b.c.NATS
	n.Replicas = 1
	for i := range raw.Servers {
		v := &raw.Servers[i]
		if !v.ok() {
			continue
		}
		u, err := url.Parse(v.V)
		switch {
		case err != nil || (u.Scheme != "nats" && u.Scheme != "tls") || u.Hostname() == "" || (u.Path != "" && u.Path != "/"):
			b.p.add(v.at, v.path, "is not a server such as nats://nats:4222")
		case u.User != nil:
			b.p.add(v.at, v.path, "has a user or password in it: use credentials_file")
		default:
			host := u.Host
			if u.Port() == "" {
				host += ":4222"
			}
			if _, _, err := hostPort(host, 1); err != nil {
				b.p.add(v.at, v.path, "%v", err)
				continue
			}
			n.Servers = append(n.Servers, v.V)
		}
	}
	if b.o.Mode == ModeService && len(raw.Servers) == 0 && !b.raw.NATS.bad {
		at := b.root
		if b.raw.NATS.set {
			at = b.raw.NATS.at
		}
		b.missing(at, "nats", "servers", "; only `stagecoach up` has a NATS of its own")
	}
	n.CredentialsFile = b.path(&raw.Credentials)
	if b.o.Mode == ModeService {
		who := "ingress"
		if b.o.Service == "admin" { // the other one that keeps something there
			who = b.o.Service
		}
		n.CredentialsFile = b.secret(&raw.Credentials, who)
	}
	if v := &raw.Replicas; v.ok() {
		if n.Replicas = v.V; v.V != 1 && v.V != 3 {
			b.p.add(v.at, v.path, "must be 1 or 3")
		}
	}
	n.Assumed = b.oneOf(&raw.Durability, "checked", "checked", "assumed") == "assumed"
	if v := &raw.Monitor; v.ok() {
		u, err := url.Parse(v.V)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil {
			b.p.add(v.at, v.path, "is not an address such as http://nats:8222")
		}
		n.Monitor = v.V
	}
}

// pki: each service needs its own pair and nobody else's. Under `up` the port of the operator's API needs the CA of the
// people, and shows admin's pair if it has no other.
func (b *builder) pki() {
	if !b.raw.PKI.set {
		return
	}
	v := &b.raw.PKI.V.Directory
	if v.missing() {
		b.missing(b.raw.PKI.at, b.raw.PKI.path, "directory", "")
		return
	}
	dir := b.path(v)
	if dir == "" {
		return
	}
	b.c.PKI = &PKI{Directory: dir}
	port := b.o.Mode == ModeUp && b.raw.Admin.V.Address.set
	if b.o.Mode == ModeUp && !b.dials() && !port {
		return
	}
	need := []string{"ca.pem"}
	if port && !b.raw.Admin.V.Certificate.set {
		need = append(need, "admin.pem", "admin-key.pem")
	}
	if b.o.Service != "" {
		need = append(need, b.o.Service+".pem", b.o.Service+"-key.pem")
	}
	if i, err := os.Stat(dir); err != nil {
		b.p.add(v.at, v.path, "%s: %v", dir, cause(err))
		return
	} else if !i.IsDir() {
		b.p.add(v.at, v.path, "%s: is not a directory", dir)
		return
	}
	for _, name := range need {
		if err := readable(filepath.Join(dir, name)); err != nil {
			b.p.add(v.at, v.path, "%s: %v", filepath.Join(dir, name), err)
		}
	}
}

// dials says that under `up` some stage runs elsewhere.
func (b *builder) dials() bool {
	for i := range b.raw.Stages.V {
		if s := &b.raw.Stages.V[i]; s.V.Address.set {
			if _, linked := b.factory(stageType(s)); !linked {
				return true
			}
		}
	}
	return false
}

func stageType(s *named[rawStage]) string {
	if s.V.Type.set {
		return s.V.Type.V
	}
	return s.name.V
}

// natsPKI: who can write to the log decides what becomes of mail, so the way to it is guarded as that to a service.
func (b *builder) natsPKI(v *val[string]) {
	if !v.ok() || b.raw.PKI.set {
		return
	}
	if u, err := url.Parse(v.V); err == nil && u.Hostname() != "" && !loopback(u.Hostname()) {
		b.p.add(v.at, v.path, "%s is reached over the network, which needs mutual TLS: pki.directory is missing", u.Host)
	}
}
