//go:build compose

package compose

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

const (
	// infectedEach: one message of so many holds the EICAR file, packed so that only clamd can find it.
	infectedEach = 20
	// recovers is how long after a fault everything may take that was accepted before its end.
	recovers = time.Minute
	// notice is what the stage of that name puts under a text, while it is in the chain.
	notice = "A second notice."
)

// loadBody is the text of the load's messages.
var loadBody = strings.Repeat("Some lines of text, as people write them.\r\n", 40)

// eicarPacked is the EICAR test file in gzip, which the stage itself does not unpack.
func eicarPacked() []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, `X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-`+`TEST-FILE!$H+H*`) // a buffer takes everything
	_ = z.Close()
	return b.Bytes()
}

// window is when a fault was in force, or what it left behind was still being mended.
type window struct {
	what       string
	begin, end time.Time
}

// unexplained are second copies that no fault explains: a copy is one whose answer was lost, so the first one arrived while
// a fault was in force; and one fault explains one copy of a message.
func unexplained(got map[string][]delivery, faults []window) (out []string) {
	for token, all := range got {
		for i := 1; i < len(all); i++ {
			why := false
			for _, w := range faults {
				why = why || all[i-1].at.After(w.begin.Add(-5*time.Second)) && all[i-1].at.Before(w.end)
			}
			if !why {
				out = append(out, fmt.Sprintf("%s at %s and %s", token, all[i-1].at.Format(time.TimeOnly), all[i].at.Format(time.TimeOnly)))
			}
		}
	}
	return out
}

// records are the public keys of the signer, by the names under which DNS would have them.
func (in *install) records(t *testing.T) map[string]string {
	t.Helper()
	list, err := adminv1.NewDkimServiceClient(in.api(t)).ListDkimKeys(t.Context(), &adminv1.ListDkimKeysRequest{})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, k := range list.GetKeys() {
		all[strings.TrimSuffix(k.GetRecordName(), ".")] = k.GetRecordValue()
	}
	return all
}

// checkDelivered looks at every message that arrived: nothing infected among them, each signed so that it verifies, with
// one footer, and of the text not a byte different.
func (in *install) checkDelivered(t *testing.T, got map[string][]delivery) {
	t.Helper()
	records := in.records(t)
	lookup := func(name string) ([]string, error) {
		if r, ok := records[strings.TrimSuffix(name, ".")]; ok {
			return []string{r}, nil
		}
		return nil, fmt.Errorf("no record %s", name)
	}
	wrong, seen := 0, 0
	complain := func(file, what string) {
		if wrong++; wrong <= 5 {
			t.Errorf("%s: %s", file, what)
		}
	}
	for _, all := range got {
		for _, d := range all {
			raw, err := os.ReadFile(d.file)
			if err != nil {
				t.Fatal(err)
			}
			seen++
			_, body, _ := bytes.Cut(raw, []byte("\r\n\r\n"))
			rest, ok := strings.CutPrefix(string(body), loadBody)
			if !ok {
				complain(d.file, "the text is another one")
			}
			if strings.Count(rest, footer) != 1 {
				complain(d.file, "there is not one footer")
			}
			for _, stamp := range []string{footer, notice} {
				rest = strings.Replace(rest, stamp, "", 1)
			}
			if strings.TrimSpace(rest) != "" {
				complain(d.file, "there is something else below the text")
			}
			verified, err := dkim.VerifyWithOptions(bytes.NewReader(raw), &dkim.VerifyOptions{LookupTXT: lookup})
			if err != nil || len(verified) == 0 {
				complain(d.file, fmt.Sprintf("%d signatures, %v", len(verified), err))
			}
			for _, v := range verified {
				if v.Err != nil {
					complain(d.file, v.Err.Error())
				}
			}
		}
	}
	t.Logf("%d messages in the mailbox: %d are not as they should be", seen, wrong)
}
