package archive

import (
	"bytes"
	"errors"
	"os"
	"reflect"
	"testing"
	"time"
)

// The record in testdata was written in format 1. It has to be readable as long as format 1 is.
func TestRecordFormat(t *testing.T) {
	b, err := os.ReadFile("testdata/format-1.rec")
	if err != nil {
		t.Fatal(err)
	}
	r, err := parseRecord(b)
	if err != nil {
		t.Fatal(err)
	}
	want := newRecord(message("01abc", nil), hexSum([]byte("the message")), 11, noon.Add(time.Second))
	if !reflect.DeepEqual(*r, want) {
		t.Errorf("got %+v\nwant %+v", *r, want)
	}
	if again, err := want.encode(); err != nil || !bytes.Equal(again, b) {
		t.Errorf("it is now written otherwise: %s, %v", again, err)
	}
}

func TestRecordRefused(t *testing.T) {
	body := func(json string) []byte { return []byte(recordMagic + hexSum([]byte(json)) + "\n" + json) }
	for name, b := range map[string][]byte{
		"empty":          nil,
		"no digest":      []byte(recordMagic),
		"wrong digest":   []byte(recordMagic + hexSum(nil) + "\n{}"),
		"no JSON":        body("nonsense"),
		"no content":     body("{}"),
		"bad content":    body(`{"sha256":"../../etc/passwd","size":1}`),
		"negative size":  body(`{"sha256":"` + hexSum(nil) + `","size":-1}`),
		"something else": []byte("<html>"),
	} {
		if r, err := parseRecord(b); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %+v, %v; want ErrDamaged", name, r, err)
		}
	}
	if _, err := parseRecord([]byte("stagecoach-archive 2 x\n{}")); err == nil || errors.Is(err, ErrDamaged) {
		t.Errorf("a newer format: %v; want an error that does not blame the file", err)
	}
}

// What parses can be written, and parses to the same.
func FuzzRecord(f *testing.F) {
	r := newRecord(message("id", nil), hexSum(nil), 0, noon)
	b, err := r.encode()
	if err != nil {
		f.Fatal(err)
	}
	_, json, _ := bytes.Cut(b, []byte("\n"))
	f.Add(json)
	f.Add([]byte(`{"id":{"base64":"/w=="},"sha256":"` + hexSum(nil) + `"}`))
	f.Add([]byte(`{"id":null,"sha256":"` + hexSum(nil) + `","envelope":{"recipients":[{}]}}`))
	f.Fuzz(func(t *testing.T, json []byte) {
		_, _ = parseRecord(json)
		r, err := parseRecord([]byte(recordMagic + hexSum(json) + "\n" + string(json)))
		if err != nil {
			return
		}
		b, err := r.encode()
		if err != nil {
			t.Skip() // a year that JSON has no form for
		}
		again, err := parseRecord(b)
		if err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if c, err := again.encode(); err != nil || !bytes.Equal(b, c) {
			t.Fatalf("%s\n%s (%v)", b, c, err)
		}
		if !again.same(r) {
			t.Fatalf("%+v\n%+v", r, again)
		}
		_ = r.Envelope.mail()
	})
}
