package doctor

import (
	"bufio"
	"context"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/stagecoachmail/stagecoach/internal/config"
	"github.com/stagecoachmail/stagecoach/services/antivirus"
)

// oldSignatures: freshclam gets new ones every day; clamd names their time without its zone.
const oldSignatures = 3*24*time.Hour + 12*time.Hour

// checkClamd asks the clamd of each antivirus stage.
func checkClamd(ctx context.Context, e *Env) []Finding {
	var stages []*config.Stage
	for _, name := range sortedKeys(e.Config.Stages) {
		if s := e.Config.Stages[name]; s.Type == antivirus.Type {
			stages = append(stages, s)
		}
	}
	return each(stages, func(s *config.Stage) notes {
		var n notes
		c, ok := s.Decoded.(antivirus.Config)
		switch {
		case !ok:
		case c.Clamd == "":
			n.info(s.Name, "has no clamd: only attachments by name and kind, and the EICAR test, are found")
		default:
			n.clamd(ctx, e, s.Name+" "+c.Clamd, c.Clamd)
		}
		return n
	})
}

func (n *notes) clamd(ctx context.Context, e *Env, subject, address string) {
	r, err := e.Servers.Clamd(ctx, address)
	if err != nil {
		n.fail(subject, "Start clamd (`systemctl status clamav-daemon`); see that it listens there (LocalSocket, TCPSocket), and that the user of the stage may open its socket.",
			"does not answer, so mail waits: %v", err)
		return
	}
	age := e.Now().Sub(r.Signed)
	switch {
	case r.Signed.IsZero():
		n.warn(subject, "Run freshclam.", "%s does not say how old its signatures are: it may have none", r.Version)
	case age > oldSignatures:
		n.warn(subject, "Run freshclam, and see that it runs by itself (`systemctl status clamav-freshclam`).", "its signatures are %d days old, of %s", int(age.Hours()/24), day(r.Signed))
	}
	if limit, file, ok := e.streamMaxLength(address); ok && limit < e.Config.Ingress.Limits.MessageSize {
		n.warn(subject, "Set StreamMaxLength in "+file+" to more than ingress.limits.message_size.",
			"takes %d bytes at most (StreamMaxLength), and we take messages of %d: larger ones are held in quarantine", limit, e.Config.Ingress.Limits.MessageSize)
	}
	if !n.bad() {
		n.ok(subject, "%s, signatures of %s", r.Version, day(r.Signed))
	}
}

var streamMax = regexp.MustCompile(`^StreamMaxLength\s+(\d+)([KkMm]?)\s*$`)

// streamMaxLength is what the configuration of a clamd on this machine sets; it cannot be asked for.
func (e *Env) streamMaxLength(address string) (limit int64, file string, ok bool) {
	if tcp, is := strings.CutPrefix(address, "tcp://"); is {
		host, _, err := net.SplitHostPort(tcp)
		a, perr := netip.ParseAddr(host)
		if err != nil || host != "localhost" && (perr != nil || !a.IsLoopback()) {
			return 0, "", false
		}
	}
	for _, file := range e.ClamdFiles {
		f, err := os.Open(file)
		if err != nil {
			continue
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			m := streamMax.FindStringSubmatch(lines.Text())
			if m == nil {
				continue
			}
			v, err := strconv.ParseInt(m[1], 10, 64)
			if err != nil || v == 0 { // 0: no limit
				return 0, "", false
			}
			switch strings.ToUpper(m[2]) {
			case "K":
				v <<= 10
			case "M":
				v <<= 20
			}
			return v, file, true
		}
	}
	return 0, "", false
}
