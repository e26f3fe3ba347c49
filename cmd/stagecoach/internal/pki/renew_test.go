package pki

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What is renewed, what is kept, and what is left alone.
func TestRenewWhatNeedsIt(t *testing.T) {
	mismatch := func(t *testing.T, f Folder) {
		other, _ := folder(t, "signer")
		_, key := other.files("signer")
		_, own := f.files("signer")
		put(t, own, []byte(content(t, key)))
	}
	foreign := func(t *testing.T, f Folder) {
		mismatch(t, f)
		other, _ := folder(t, "signer")
		for _, suffix := range []string{certSuffix, keySuffix} {
			put(t, filepath.Join(f.Dir, "signer"+suffix), []byte(content(t, filepath.Join(other.Dir, "signer"+suffix))))
		}
	}
	no := func(suffix string) func(*testing.T, Folder) {
		return func(t *testing.T, f Folder) { remove(t, filepath.Join(f.Dir, "signer"+suffix)) }
	}
	garbage := func(suffix string) func(*testing.T, Folder) {
		return func(t *testing.T, f Folder) { put(t, filepath.Join(f.Dir, "signer"+suffix), []byte("garbage")) }
	}
	// The service itself puts the certificate of another one, which everybody gets to see, into the place of its own.
	stolen := func(t *testing.T, f Folder) {
		cert, _ := f.files("ingress")
		own, _ := f.files("signer")
		put(t, own, []byte(content(t, cert)))
	}
	named := Renewal{Before: month, Names: []string{"signer"}}
	for name, c := range map[string]struct {
		prepare func(*testing.T, Folder)
		later   time.Duration
		r       Renewal
		want    Change // empty: not meant
	}{
		"fresh":                         {nil, 0, Renewal{Before: month}, Kept},
		"a minute too early":            {nil, Valid - month - time.Minute, Renewal{Before: month}, Kept},
		"it is time":                    {nil, Valid - month + time.Minute, Renewal{Before: month}, Renewed},
		"ended":                         {nil, Valid + month, Renewal{Before: month}, Renewed},
		"a clock that is behind":        {nil, -30 * time.Minute, Renewal{Before: month}, Kept},
		"all":                           {nil, 0, Renewal{All: true}, Renewed},
		"named, fresh":                  {nil, 0, named, Kept},
		"named, all":                    {nil, 0, Renewal{All: true, Names: named.Names}, Renewed},
		"another was named":             {nil, 0, Renewal{All: true, Names: []string{"ingress"}}, ""},
		"the key does not fit":          {mismatch, 0, Renewal{Before: month}, Renewed},
		"the key cannot be read":        {garbage(keySuffix), 0, Renewal{Before: month}, Renewed},
		"of another CA":                 {foreign, 0, Renewal{Before: month}, ""},
		"of another CA, ends":           {foreign, Valid - month + time.Hour, Renewal{Before: month}, Failed},
		"of another CA, all":            {foreign, 0, Renewal{All: true}, Failed},
		"of another CA, named":          {foreign, 0, named, Renewed},
		"no key":                        {no(keySuffix), 0, Renewal{Before: month}, Failed},
		"of another service":            {stolen, 0, Renewal{Before: month}, ""},
		"of another service, all":       {stolen, 0, Renewal{All: true}, Failed},
		"of another service, named":     {stolen, 0, named, Renewed},
		"no key, named":                 {no(keySuffix), 0, named, Renewed},
		"no certificate":                {no(certSuffix), 0, Renewal{Before: month}, Failed},
		"no certificate, named":         {no(certSuffix), 0, named, Renewed},
		"certificate is garbage":        {garbage(certSuffix), 0, Renewal{Before: month}, Failed},
		"certificate is garbage, named": {garbage(certSuffix), 0, named, Renewed},
	} {
		t.Run(name, func(t *testing.T) {
			f, clk := folder(t, "ingress", "signer")
			if c.prepare != nil {
				c.prepare(t, f)
			}
			clk.at = clk.at.Add(c.later)
			read := func() string {
				cert, _ := os.ReadFile(filepath.Join(f.Dir, "signer.pem"))
				key, _ := os.ReadFile(filepath.Join(f.Dir, "signer-key.pem"))
				return string(cert) + string(key)
			}
			before := read()
			res, meant := renewed(t, f, c.r)["signer"]
			if meant != (c.want != "") || res.Change != c.want {
				t.Fatalf("%v, not %q", res, c.want)
			}
			if changed := read() != before; changed != (c.want == Renewed) {
				t.Errorf("the files changed: %v", changed)
			}
			if c.want != Renewed {
				return
			}
			if i, err := f.List(); err != nil || i[2].Name != "signer" || i[2].Problem != "" || !i[2].FitsKey || !i[2].OfCA || !i[2].Named || !i[2].Ends.Equal(clk.at.Add(Valid).Truncate(time.Second)) {
				t.Errorf("afterwards: %+v, %v", i, err)
			}
			if names := leafOf(t, f, "signer").DNSNames; !slices.Equal(names, []string{"signer"}) {
				t.Errorf("its names: %v", names)
			}
			c.r.All = false
			if again := renewed(t, f, c.r)["signer"]; again.Change != Kept {
				t.Errorf("again: %v", again)
			}
		})
	}
}

// A name that is not there yet is added; the key is new with each renewal, the names stay.
func TestAddAndNames(t *testing.T) {
	f, _ := folder(t, "ingress")
	if res := renewed(t, f, Renewal{Names: []string{"tagger"}}); res["tagger"].Change != Made || len(res) != 1 {
		t.Fatal(res)
	}
	open(t, f, "tagger")
	dir := t.TempDir()
	g := Folder{Dir: dir, Now: time.Now}
	if _, err := g.Init([]Service{{Name: "tagger", Also: []string{"tagger.example"}}}); err != nil {
		t.Fatal(err)
	}
	before := leafOf(t, g, "tagger")
	renewed(t, g, Renewal{All: true})
	after := leafOf(t, g, "tagger")
	if !slices.Equal(after.DNSNames, before.DNSNames) || len(after.DNSNames) != 2 {
		t.Errorf("the names were %v, and are %v", before.DNSNames, after.DNSNames)
	}
	if string(before.RawSubjectPublicKeyInfo) == string(after.RawSubjectPublicKeyInfo) {
		t.Error("the key is the old one")
	}
}

// Near its end a CA can give no longer life: what already has all that is left is not renewed day after day.
func TestEndOfCA(t *testing.T) {
	f, clk := folder(t, "ingress")
	end := leafOf(t, f, "ca").NotAfter
	clk.at = end.Add(-20 * 24 * time.Hour)
	if res := renewed(t, f, Renewal{Before: month})["ingress"]; res.Change != Renewed || !res.Ends.Equal(end) {
		t.Fatalf("%v, the CA ends at %v", res, end)
	}
	clk.at = clk.at.Add(24 * time.Hour)
	if res := renewed(t, f, Renewal{Before: month})["ingress"]; res.Change != Kept {
		t.Errorf("the next day: %v", res)
	}
}

// The files stay readable for whom they were, and what a killed run left is taken away.
func TestFilesStayAsTheyWere(t *testing.T) {
	f, _ := folder(t, "ingress")
	cert, key := f.files("ingress")
	left := filepath.Join(f.Dir, ".ingress-key.pem.new")
	put(t, left, []byte("half a k"))
	if err := os.Chmod(key, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(f.CAFile(), 0o644); err != nil {
		t.Fatal(err)
	}
	root := os.Geteuid() == 0
	if root {
		for _, file := range []string{cert, key} {
			if err := os.Chown(file, 1234, 2345); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chown(f.CAFile(), 3456, 4567); err != nil {
			t.Fatal(err)
		}
	}
	renewed(t, f, Renewal{All: true})
	renewed(t, f, Renewal{Names: []string{"tagger"}})
	for file, mode := range map[string]os.FileMode{key: 0o640, cert: 0o600, filepath.Join(f.Dir, "tagger-key.pem"): 0o640} {
		if st, err := os.Stat(file); err != nil || st.Mode() != mode {
			t.Errorf("%s: %v, %v", file, st.Mode(), err)
		}
	}
	if root {
		for file, uid := range map[string]uint32{cert: 1234, key: 1234, filepath.Join(f.Dir, "tagger-key.pem"): 3456} {
			st, err := os.Stat(file)
			if err != nil || st.Sys().(*syscall.Stat_t).Uid != uid || st.Sys().(*syscall.Stat_t).Gid != uid+1111 {
				t.Errorf("%s: %+v, %v", file, st.Sys(), err)
			}
		}
	}
	if files, err := filepath.Glob(filepath.Join(f.Dir, ".*")); err != nil || len(files) > 0 {
		t.Errorf("left over: %v %v", files, err)
	}
}

func TestLinksStay(t *testing.T) {
	f, _ := folder(t, "ingress")
	_, key := f.files("ingress")
	elsewhere := filepath.Join(t.TempDir(), "key.pem")
	if err := os.Rename(key, elsewhere); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, key); err != nil {
		t.Fatal(err)
	}
	if res := renewed(t, f, Renewal{All: true})["ingress"]; res.Change != Failed || !strings.Contains(res.Why, "link") {
		t.Error(res)
	}
	open(t, f, "ingress")
}

func TestOneAtATime(t *testing.T) {
	f, _ := folder(t, "ingress")
	unlock, err := lock(f.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.Renew(Renewal{All: true}); err == nil || !strings.Contains(err.Error(), "at work") {
		t.Errorf("two at once: %v", err)
	}
	unlock()
	renewed(t, f, Renewal{All: true})
}
