package mail

import (
	"reflect"
	"testing"
)

func TestEditsValidate(t *testing.T) {
	ok := Address{"u", "example.com"}
	for name, e := range map[string]Edits{
		"nothing":          {},
		"null sender":      {ReversePath: &Address{}},
		"sender":           {ReversePath: &ok},
		"two recipients":   {Rewrites: []Rewrite{{"a", ok}, {"b", ok}}},
		"touching":         {Splices: []Splice{{0, 5, nil}, {5, 5, nil}}},
		"insert at an end": {Splices: []Splice{{10, 0, []byte("x")}}},
	} {
		if err := e.Validate(10); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, e := range map[string]Edits{
		"sender with a line end": {ReversePath: &Address{"u\r\n", "example.com"}},
		"sender without domain":  {ReversePath: &Address{"u", ""}},
		"rewrite to null":        {Rewrites: []Rewrite{{"a", Address{}}}},
		"rewrite to nonsense":    {Rewrites: []Rewrite{{"a", Address{"u", "a b"}}}},
		"rewrite of nobody":      {Rewrites: []Rewrite{{"", ok}}},
		"rewritten twice":        {Rewrites: []Rewrite{{"a", ok}, {"a", ok}}},
	} {
		if err := e.Validate(10); err == nil {
			t.Errorf("%s: valid", name)
		}
	}
}

func TestEnvelopeApply(t *testing.T) {
	from, to := Address{"new", "example.com"}, Address{"alias", "example.net"}
	sample := func() Envelope {
		return Envelope{
			ReversePath: Address{"old", "example.com"},
			Recipients:  []Recipient{{ID: "1", Address: Address{"a", "b"}, Notify: "NEVER"}, {ID: "2", Address: Address{"c", "d"}}},
			EnvID:       "x",
		}
	}
	env, before, want := sample(), sample(), sample()
	got, err := env.Apply(Edits{ReversePath: &from, Rewrites: []Rewrite{{"2", to}}, Splices: []Splice{{100, 5, nil}}})
	if err != nil {
		t.Fatal(err)
	}
	want.ReversePath, want.Recipients[1].Address = from, to
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	if !reflect.DeepEqual(env, before) {
		t.Error("the envelope itself was changed")
	}
	if _, err := env.Apply(Edits{Rewrites: []Rewrite{{"3", to}}}); err == nil {
		t.Error("a recipient that is not there was rewritten")
	}
	utf := Address{"ü", "example.com"}
	for _, e := range []Edits{{ReversePath: &utf}, {Rewrites: []Rewrite{{"1", utf}}}} {
		if _, err := env.Apply(e); err == nil {
			t.Error("an address that cannot be sent was taken")
		}
		with := env.Clone()
		with.SMTPUTF8 = true
		if _, err := with.Apply(e); err != nil {
			t.Errorf("with SMTPUTF8: %v", err)
		}
	}
	if _, err := env.Apply(Edits{ReversePath: &Address{"a\n", "b"}}); err == nil {
		t.Error("an address that is none became the reverse-path")
	}
}

// The sizes were counted by hand from the wire format: tag, length, content.
func TestEncodedSize(t *testing.T) {
	for _, c := range []struct {
		e    Edits
		want int
	}{
		{Edits{}, 0},
		{Edits{Splices: []Splice{{0, 0, []byte("abc")}}}, 2 + 5},
		{Edits{Splices: []Splice{{1, 200, nil}}}, 2 + 2 + 3},
		{Edits{Splices: []Splice{{300, 0, make([]byte, 200)}}}, 3 + 3 + 3 + 200},
		{Edits{ReversePath: &Address{}}, 2},
		{Edits{ReversePath: &Address{"a b", "c"}}, 2 + 2 + 7},
		{Edits{Rewrites: []Rewrite{{"id", Address{"a", "b"}}}}, 2 + 4 + 5},
	} {
		if got := c.e.EncodedSize(); got != c.want {
			t.Errorf("%+v: %d bytes, want %d", c.e, got, c.want)
		}
	}
}
