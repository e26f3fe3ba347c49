package python

import (
	"os"
	"strings"
	"testing"
)

// docs/stages.md shows this program as it is; test/interop puts it into a chain and sends mail through it.
func TestDocs(t *testing.T) {
	source, err := os.ReadFile("labeler.py")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../../docs/stages.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(page), "```python\n")
	if shown, _, _ := strings.Cut(after, "```"); !ok || shown != string(source) {
		t.Error("docs/stages.md does not show stage/example/python/labeler.py as it is: copy it there")
	}
}
