package config

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// errReported says that what is wrong stands in the problems already.
var errReported = errors.New("the configuration has errors")

// decoder fills Go values from nodes, strictly: an unknown key, a wrong type and a missing unit are errors. It goes
// on after each. It serves the house's own structs and the configs of stages alike, so that both are told of all
// errors at once, each at its place.
type decoder struct{ p *problems }

// nodeReader is a type of this package that reads its node itself.
type nodeReader interface {
	readNode(d *decoder, n *node, path string)
}

var durationType = reflect.TypeFor[time.Duration]()

func (d *decoder) value(n *node, v reflect.Value, path string) {
	if n.kind == kindBad {
		return
	}
	if v.CanAddr() && d.custom(n, v.Addr().Interface(), path) {
		return
	}
	if v.Type() == durationType {
		if s, ok := d.scalar(n, path, "a duration such as 60s or 5m"); ok {
			t, err := time.ParseDuration(s)
			if err != nil {
				d.p.add(n.spot, path, "%q is not a duration such as 60s, 5m or 1h30m", s)
			}
			v.SetInt(int64(t))
		}
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if n.kind != kindNull {
			v.Set(reflect.New(v.Type().Elem()))
			d.value(n, v.Elem(), path)
		}
	case reflect.Interface:
		if v.NumMethod() > 0 {
			d.p.add(n.spot, path, "cannot be configured (%s)", v.Type())
		} else if p := n.plain(); p != nil {
			v.Set(reflect.ValueOf(p))
		}
	case reflect.Struct:
		d.structure(n, v, path)
	case reflect.Map:
		d.mapping(n, v, path)
	case reflect.Slice:
		d.list(n, v, path)
	case reflect.String:
		if s, ok := d.scalar(n, path, "text"); ok {
			v.SetString(s)
		}
	case reflect.Bool:
		if n.kind != kindBool {
			d.wrong(n, path, "true or false")
			return
		}
		v.SetBool(n.text == "true")
	default:
		d.number(n, v, path)
	}
}

// custom lets a type that has a way of its own to be read read itself.
func (d *decoder) custom(n *node, target any, path string) bool {
	switch t := target.(type) {
	case nodeReader:
		t.readNode(d, n, path)
	case interface{ UnmarshalYAML(func(any) error) error }:
		d.outcome(n, path, t.UnmarshalYAML(func(into any) error { return d.into(n, into, path) }))
	case interface{ UnmarshalYAML([]byte) error }:
		b, err := Canonical(n.plain()) // JSON is YAML
		if err == nil {
			err = t.UnmarshalYAML(b)
		}
		d.outcome(n, path, err)
	case encoding.TextUnmarshaler:
		want := "text"
		if _, ok := target.(*Size); ok {
			want = "a size such as 50MB"
		}
		if s, ok := d.scalar(n, path, want); ok {
			d.outcome(n, path, t.UnmarshalText([]byte(s)))
		}
	default:
		return false
	}
	return true
}

// into is what a stage's Factory is given: it fills the struct that target points to.
func (d *decoder) into(n *node, target any, path string) error {
	v := reflect.ValueOf(target)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return fmt.Errorf("config decodes into a pointer, not a %T", target)
	}
	before := d.p.count
	d.value(n, v.Elem(), path)
	if d.p.count > before || hasBad(n) {
		return errReported
	}
	return nil
}

func hasBad(n *node) bool {
	for _, e := range n.entries {
		if hasBad(e.value) {
			return true
		}
	}
	for _, i := range n.items {
		if hasBad(i) {
			return true
		}
	}
	return n.kind == kindBad
}

// outcome reports what a type's own reading, or its Validate, has said. An error that begins with the name of a key
// ("clamd: no such scheme", "domains[1].key is missing") is shown at that key.
func (d *decoder) outcome(n *node, path string, err error) {
	if err == nil || errors.Is(err, errReported) {
		return
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range many.Unwrap() {
			d.outcome(n, path, e)
		}
		return
	}
	msg := err.Error()
	for {
		key, rest, ok := cutKey(msg)
		if !ok {
			break
		}
		below := n.find(key)
		if i, err := strconv.Atoi(key); err == nil && n.kind == kindList && i >= 0 && i < len(n.items) {
			below = n.items[i]
			path += "[" + key + "]"
		} else if below != nil {
			path = join(path, key)
		}
		if below == nil {
			break
		}
		n, msg = below, rest
	}
	d.p.add(n.spot, path, "%s", msg)
}

// cutKey takes a leading "key: ", "key." or "[2]" off a message.
func cutKey(msg string) (key, rest string, ok bool) {
	msg = strings.TrimPrefix(msg, ".")
	if inner, ok := strings.CutPrefix(msg, "["); ok {
		key, rest, ok = strings.Cut(inner, "]")
		return key, trimKeyEnd(rest), ok
	}
	i := strings.IndexAny(msg, ":.[ ")
	if i <= 0 || msg[i] == ' ' {
		return "", "", false
	}
	return msg[:i], trimKeyEnd(msg[i:]), true
}

func trimKeyEnd(rest string) string {
	if strings.HasPrefix(rest, ".") || strings.HasPrefix(rest, "[") {
		return rest
	}
	return strings.TrimLeft(rest, ": ")
}

// scalar gives text, and says of other kinds what to do. YAML reads 12345 and true as no text: guessing would change
// what was written (0123, 1.0).
func (d *decoder) scalar(n *node, path, want string) (string, bool) {
	switch n.kind {
	case kindText:
		return n.text, true
	case kindNumber, kindBool:
		if want == "text" {
			d.p.add(n.spot, path, "is %s to YAML; put quotes around it: %q", n.kind, n.text)
		} else {
			d.p.add(n.spot, path, "must be %s, not the bare %s", want, n.text)
		}
	default:
		d.wrong(n, path, want)
	}
	return "", false
}

func (d *decoder) wrong(n *node, path, want string) {
	if n.kind == kindBad {
		return
	}
	d.p.add(n.spot, path, "must be %s, not %s", want, n.kind)
}

func (d *decoder) number(n *node, v reflect.Value, path string) {
	if n.kind != kindNumber {
		d.wrong(n, path, "a number")
		return
	}
	switch {
	case v.CanInt():
		i, err := strconv.ParseInt(n.text, 10, 64)
		if err != nil {
			d.p.add(n.spot, path, "must be a whole number, not %s", n.text)
		} else if v.OverflowInt(i) {
			d.p.add(n.spot, path, "%s is out of range", n.text)
		} else {
			v.SetInt(i)
		}
	case v.CanUint():
		u, err := strconv.ParseUint(n.text, 10, 64)
		if err != nil {
			d.p.add(n.spot, path, "must be a whole number, and not negative: %s", n.text)
		} else if v.OverflowUint(u) {
			d.p.add(n.spot, path, "%s is out of range", n.text)
		} else {
			v.SetUint(u)
		}
	case v.CanFloat():
		f, _ := strconv.ParseFloat(n.text, 64)
		v.SetFloat(f)
	default:
		d.p.add(n.spot, path, "cannot be configured (%s)", v.Type())
	}
}

func (d *decoder) list(n *node, v reflect.Value, path string) {
	if n.kind == kindNull {
		return
	}
	if n.kind != kindList {
		d.wrong(n, path, "a list")
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.items), len(n.items))
	for i, item := range n.items {
		d.value(item, out.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
	v.Set(out)
}

func (d *decoder) mapping(n *node, v reflect.Value, path string) {
	if n.kind == kindNull {
		return
	}
	if n.kind != kindMap {
		d.wrong(n, path, "a mapping")
		return
	}
	out := reflect.MakeMapWithSize(v.Type(), len(n.entries))
	for _, e := range n.entries {
		key := reflect.New(v.Type().Key()).Elem()
		value := reflect.New(v.Type().Elem()).Elem()
		d.value(e.key, key, join(path, e.key.text))
		d.value(e.value, value, join(path, e.key.text))
		out.SetMapIndex(key, value)
	}
	v.Set(out)
}

func (d *decoder) structure(n *node, v reflect.Value, path string) {
	if n.kind == kindNull { // "limits:" with everything below it commented out
		return
	}
	if n.kind != kindMap {
		d.wrong(n, path, "a mapping")
		return
	}
	fields := map[string]reflect.Value{}
	var names []string
	collect(v, fields, &names)
	for _, e := range n.entries {
		f, ok := fields[e.key.text]
		if !ok {
			d.p.add(e.key.spot, join(path, e.key.text), "unknown key%s", suggest(e.key.text, names, "keys"))
			continue
		}
		d.value(e.value, f, join(path, e.key.text))
	}
}

// collect finds the fields of a struct by their yaml (or json) names; without a tag, the lower-case name.
func collect(v reflect.Value, fields map[string]reflect.Value, names *[]string) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		tag, ok := f.Tag.Lookup("yaml")
		if !ok {
			tag = f.Tag.Get("json")
		}
		name, options, _ := strings.Cut(tag, ",")
		inline := strings.Contains(options, "inline") || (f.Anonymous && name == "")
		if inline && f.Type.Kind() == reflect.Struct {
			collect(v.Field(i), fields, names)
			continue
		}
		if !f.IsExported() || name == "-" {
			continue
		}
		if name == "" {
			name = strings.ToLower(f.Name)
		}
		fields[name] = v.Field(i)
		*names = append(*names, name)
	}
}
