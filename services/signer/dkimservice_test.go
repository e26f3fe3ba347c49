package signer

import (
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/internal/config"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/stage"
)

// keyService is the service over stages with these configurations, which run.
func keyService(t *testing.T, dir string, configs map[string]Config) *dkimService {
	t.Helper()
	cfg := &config.Config{Dir: dir, DataDir: dir, Hostname: "relay.example.com", Stages: map[string]*config.Stage{"scan": {Name: "scan", Type: "antivirus"}}}
	stages := chain.NewStages(time.Hour, slog.New(slog.DiscardHandler), time.Now)
	t.Cleanup(stages.Close)
	var all []chain.Instance
	for name, c := range configs {
		cfg.Stages[name] = &config.Stage{Name: name, Type: Type, Hash: name, Decoded: c}
		all = append(all, chain.Instance{Name: name, Hash: name, Type: Type, New: func() (stage.Stage, error) {
			return New(stage.Settings{Instance: name, Hostname: cfg.Hostname, Logger: slog.New(slog.DiscardHandler), ConfigDir: dir, DataDir: dir, Now: time.Now}, c)
		}})
	}
	if err := stages.Replace(all); err != nil {
		t.Fatal(err)
	}
	s, ok := Service(func() *config.Config { return cfg }, stages, slog.New(slog.DiscardHandler)).(*dkimService)
	if !ok {
		t.Fatal("another service")
	}
	return s
}

// brief are the keys in short; * is active, ! cannot be used.
func brief(keys []*adminv1.DkimKey) string {
	var out []string
	for _, k := range keys {
		s := k.GetStage() + ":" + k.GetSelector() + "._domainkey." + k.GetDomain()
		if k.GetActive() {
			s += "*"
		}
		if k.GetProblem() != "" {
			s += "!"
		} else if k.GetRecordName() != k.GetSelector()+"._domainkey."+k.GetDomain() || !strings.HasPrefix(k.GetRecordValue(), "v=DKIM1; k="+k.GetAlgorithm()) ||
			!strings.HasPrefix(k.GetZoneLine(), k.GetRecordName()+". IN TXT (") || (k.GetAlgorithm() == "rsa") != (k.GetBits() == rsaBits) {
			s += " " + prototext.Format(k)
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

// secretFree says that no private key below dir stands in a message.
func secretFree(t *testing.T, dir string, m proto.Message) {
	t.Helper()
	raw, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(dir, func(file string, e os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(file, keySuffix) {
			return err
		}
		b, err := os.ReadFile(file)
		if block, _ := pem.Decode(b); block != nil {
			line := strings.Split(string(b), "\n")[1]
			if strings.Contains(string(raw), line[:20]) || strings.Contains(string(raw), string(block.Bytes[len(block.Bytes)-16:])) {
				t.Errorf("%s is in the answer", file)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestListDkimKeys(t *testing.T) {
	dir := t.TempDir()
	keys := filepath.Join(dir, "keys")
	for domain, selector := range map[string]string{"example.com": "a", "named.example": "old"} {
		if _, err := WriteKeys(keys, domain, selector); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := WriteKeys(dir, "elsewhere", "own", RSA); err != nil {
		t.Fatal(err)
	}
	// A copy of it in the folder: who names it elsewhere does not use this one.
	own, err := os.ReadFile(filepath.Join(dir, "elsewhere", "own.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(keys, "named.example", "own.pem"), own, 0o600); err != nil {
		t.Fatal(err)
	}
	named := Config{Domains: map[string]Domain{"Named.Example": {Keys: []KeyRef{{Selector: "own", KeyFile: "elsewhere/own.pem"}}}}}
	s := keyService(t, dir, map[string]Config{"dkim": {}, "second": named})
	list := func(r *adminv1.ListDkimKeysRequest) string {
		t.Helper()
		resp, err := s.ListDkimKeys(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		secretFree(t, dir, resp)
		return brief(resp.GetKeys())
	}
	if got, want := list(&adminv1.ListDkimKeysRequest{}), "dkim:a-ed25519._domainkey.example.com* dkim:a-rsa._domainkey.example.com* "+
		"dkim:old-ed25519._domainkey.named.example* dkim:old-rsa._domainkey.named.example* dkim:own._domainkey.named.example* "+
		"second:a-ed25519._domainkey.example.com* second:a-rsa._domainkey.example.com* "+
		"second:old-ed25519._domainkey.named.example second:old-rsa._domainkey.named.example second:own._domainkey.named.example* second:own._domainkey.named.example"; got != want {
		t.Errorf("\n%s\nwant\n%s", got, want)
	}
	if got, want := list(&adminv1.ListDkimKeysRequest{Stage: "dkim", Domain: "EXAMPLE.com"}), "dkim:a-ed25519._domainkey.example.com* dkim:a-rsa._domainkey.example.com*"; got != want {
		t.Errorf("%s", got)
	}
	// A file that cannot be used: the stage goes on with the key from before, which is not the file's.
	if err := os.WriteFile(filepath.Join(keys, "example.com", "a-rsa.pem"), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := list(&adminv1.ListDkimKeysRequest{Stage: "dkim", Domain: "example.com"}), "dkim:a-ed25519._domainkey.example.com* dkim:a-rsa._domainkey.example.com!"; got != want {
		t.Errorf("%s", got)
	}
	for r, code := range map[*adminv1.ListDkimKeysRequest]codes.Code{
		{Stage: "scan"}: codes.NotFound, {Stage: "none"}: codes.NotFound, {Domain: "../keys"}: codes.InvalidArgument,
	} {
		if _, err := s.ListDkimKeys(t.Context(), r); status.Code(err) != code {
			t.Errorf("%v: %v", r, err)
		}
	}
	s.stages.Close()
	if _, err := s.ListDkimKeys(t.Context(), &adminv1.ListDkimKeysRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("when nothing runs: %v", err)
	}
}

func TestCreateDkimKeys(t *testing.T) {
	dir := t.TempDir()
	s := keyService(t, dir, map[string]Config{"dkim": {}})
	create := func(domain, selector string) (*adminv1.CreateDkimKeysResponse, error) {
		return s.CreateDkimKeys(t.Context(), &adminv1.CreateDkimKeysRequest{Domain: domain, Selector: selector})
	}
	resp, err := create("Bücher.example", "")
	if err != nil {
		t.Fatal(err)
	}
	secretFree(t, dir, resp)
	today := "s" + time.Now().UTC().Format("20060102")
	if got, want := brief(resp.GetKeys()), "dkim:"+today+"-rsa._domainkey.xn--bcher-kva.example* dkim:"+today+"-ed25519._domainkey.xn--bcher-kva.example*"; got != want {
		t.Errorf("made: %s\nwant %s", got, want)
	}
	for _, k := range resp.GetKeys() {
		if st, err := os.Stat(k.GetFile()); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", st.Mode(), err)
		}
	}
	running, release, _ := s.stages.Use("dkim")
	defer release()
	if signer, ok := running.(*Signer); !ok || len(signer.ring.find("xn--bcher-kva.example")) != 2 {
		t.Error("the stage does not sign with them")
	}
	if _, err := create("bücher.example", ""); status.Code(err) != codes.AlreadyExists {
		t.Errorf("once more: %v", err)
	}
	for _, domain := range []string{"", "../x", "a/b", ".", "x..y"} {
		if _, err := create(domain, "s"); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%q: %v", domain, err)
		}
	}
	for _, selector := range []string{"../x", "a b", "-"} {
		if _, err := create("example.com", selector); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%q: %v", selector, err)
		}
	}
	// What would keep the stage from starting again is not made, also by calls at once.
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() { _, errs[i] = create("example.com", string(rune('a'+i))) })
	}
	wg.Wait()
	full := slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(full) != 2 || status.Code(full[0]) != codes.FailedPrecondition || !strings.Contains(full[0].Error(), "at most 4") {
		t.Errorf("%v", full)
	}
	if _, err := New(stage.Settings{Logger: slog.New(slog.DiscardHandler), ConfigDir: dir, DataDir: dir, Now: time.Now}, Config{}); err != nil {
		t.Errorf("the stage does not start again: %v", err)
	}
	several := keyService(t, dir, map[string]Config{"one": {}, "two": {KeyDir: "keys2"}})
	if _, err := several.CreateDkimKeys(t.Context(), &adminv1.CreateDkimKeysRequest{Domain: "example.org"}); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "one, two") {
		t.Errorf("%v", err)
	}
	if _, err := several.CreateDkimKeys(t.Context(), &adminv1.CreateDkimKeysRequest{Stage: "two", Domain: "example.org"}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "keys2", "example.org")); err != nil {
		t.Error(err)
	}
}
