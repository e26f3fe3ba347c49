package antivirus

import (
	"fmt"
	"mime"
	"net"
	"path"
	"slices"
	"strings"
)

// Config is the operator's part.
type Config struct {
	// Clamd is the address of a clamd: "tcp://host:port" or "unix:///path"; empty: the built-in engine alone.
	Clamd string `yaml:"clamd"`
	// MaxScans is how many scans clamd is given at once. It should not be more than clamd's MaxThreads.
	MaxScans int `yaml:"max_scans"`
	// BlockedNames are patterns of file names (as in a shell: * ? [a-z]) that are held, without regard to case.
	BlockedNames []string `yaml:"blocked_names"`
	// BlockedTypes are media types ("application/x-msdownload", "application/x-ms*") as they are declared, and kinds
	// ("pe", "elf") as they are found at the beginning of the data, whatever is declared.
	BlockedTypes []string `yaml:"blocked_types"`
}

const maxMaxScans = 1000

// defaultConfig blocks what a desktop runs when it is clicked on.
func defaultConfig() Config {
	return Config{
		MaxScans: 8,
		BlockedNames: []string{
			// Programs and their installers.
			"*.exe", "*.com", "*.scr", "*.pif", "*.cpl", "*.dll", "*.ocx", "*.sys", "*.drv",
			"*.msi", "*.msp", "*.mst", "*.msix", "*.appx", "*.msixbundle", "*.appxbundle", "*.application", "*.appref-ms",
			"*.jar", "*.jnlp", "*.apk", "*.gadget", "*.xll", "*.wll",
			// Scripts that have an interpreter on every desktop.
			"*.bat", "*.cmd", "*.vbs", "*.vbe", "*.vb", "*.js", "*.jse", "*.wsf", "*.wsh", "*.wsc", "*.sct", "*.hta",
			"*.ps1", "*.ps1xml", "*.ps2", "*.psc1", "*.psc2", "*.psm1", "*.psd1", "*.msh", "*.mshxml",
			// What leads to them.
			"*.lnk", "*.scf", "*.url", "*.inf", "*.ins", "*.isp", "*.reg", "*.msc", "*.chm", "*.hlp", "*.shb", "*.shs",
			"*.settingcontent-ms", "*.library-ms", "*.search-ms", "*.diagcab", "*.theme", "*.themepack",
			// Disks that open with a click, and whose files then bear no mark of the internet.
			"*.iso", "*.img", "*.vhd", "*.vhdx", "*.udf",
		},
		BlockedTypes: []string{
			"pe", "elf", "macho", "lnk", "chm", "java",
			"application/x-msdownload", "application/x-dosexec", "application/x-msdos-program",
			"application/vnd.microsoft.portable-executable", "application/x-ms-installer", "application/x-msi",
			"application/x-executable", "application/x-elf", "application/x-mach-binary",
			"application/hta", "application/x-ms-shortcut", "application/java-archive",
		},
	}
}

// Validate checks the addresses, patterns and kinds.
func (c *Config) Validate() error {
	if c.Clamd != "" {
		if _, err := parseClamd(c.Clamd); err != nil {
			return fmt.Errorf("clamd: %w", err)
		}
	}
	if c.MaxScans < 1 || c.MaxScans > maxMaxScans {
		return fmt.Errorf("max_scans: %d is not between 1 and %d", c.MaxScans, maxMaxScans)
	}
	for _, p := range c.BlockedNames {
		if _, err := path.Match(p, ""); err != nil || p == "" {
			return fmt.Errorf("blocked_names: %q is not a pattern such as \"*.exe\"", p)
		}
		if strings.ContainsAny(p, "/") {
			return fmt.Errorf("blocked_names: %q has a slash: only the last part of a path is looked at", p)
		}
	}
	for _, t := range c.BlockedTypes {
		if strings.Contains(t, "/") {
			_, err := path.Match(t, "")
			if _, _, merr := mime.ParseMediaType(strings.Map(plainGlob, t)); err != nil || merr != nil {
				return fmt.Errorf("blocked_types: %q is not a media type such as \"application/x-msdownload\"", t)
			}
		} else if !slices.Contains(kinds(), kind(strings.ToLower(t))) {
			return fmt.Errorf("blocked_types: %q is neither a media type nor one of the kinds %v", t, kinds())
		}
	}
	return nil
}

// plainGlob puts a letter in place of what makes a pattern of a media type.
func plainGlob(r rune) rune {
	if strings.ContainsRune("*?[]", r) {
		return 'x'
	}
	return r
}

// endpoint is where clamd listens.
type endpoint struct{ network, address string }

func parseClamd(s string) (endpoint, error) {
	if addr, ok := strings.CutPrefix(s, "tcp://"); ok {
		host, port, err := net.SplitHostPort(addr)
		if err != nil || host == "" || port == "" {
			return endpoint{}, fmt.Errorf("%q needs a host and a port: tcp://host:3310", s)
		}
		return endpoint{"tcp", addr}, nil
	}
	if p, ok := strings.CutPrefix(s, "unix://"); ok {
		if !path.IsAbs(p) || strings.ContainsRune(p, 0) {
			return endpoint{}, fmt.Errorf("%q needs an absolute path: unix:///run/clamav/clamd.sock", s)
		}
		return endpoint{"unix", p}, nil
	}
	return endpoint{}, fmt.Errorf("%q is neither tcp://host:port nor unix:///path", s)
}

// rules are the blocking parts of a Config, ready for use.
type rules struct {
	// Names are suffixes ("*.exe"), which nearly all are, and other patterns.
	suffixes, names []string
	types           []string
	kinds           map[kind]bool
}

func newRules(c Config) *rules {
	r := &rules{kinds: make(map[kind]bool)}
	for _, n := range c.BlockedNames {
		n = strings.ToLower(n)
		if strings.HasPrefix(n, "*") && !strings.ContainsAny(n[1:], `*?[\`) {
			r.suffixes = append(r.suffixes, n[1:])
		} else {
			r.names = append(r.names, n)
		}
	}
	for _, t := range c.BlockedTypes {
		if t = strings.ToLower(t); strings.Contains(t, "/") {
			r.types = append(r.types, t)
		} else {
			r.kinds[kind(t)] = true
		}
	}
	return r
}

// name gives the pattern that a file name matches, or "".
func (r *rules) name(form string) string {
	form = strings.ToLower(form)
	for _, s := range r.suffixes {
		if strings.HasSuffix(form, s) {
			return "*" + s
		}
	}
	return matchAny(r.names, form)
}

// mediaType gives the pattern that a media type matches, or "".
func (r *rules) mediaType(t string) string { return matchAny(r.types, strings.ToLower(t)) }

func matchAny(patterns []string, s string) string {
	for _, p := range patterns {
		if ok, err := path.Match(p, s); err == nil && ok {
			return p
		}
	}
	return ""
}
