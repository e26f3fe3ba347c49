package users

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
)

// MinPassword is the least length of a new password in octets; MaxPassword is what a login may bring.
const (
	MinPassword = 8
	MaxPassword = maxPassword
)

// Why an edit is refused. ErrInvalid comes with the reason.
var (
	ErrExists  = errors.New("there is a user of that name")
	ErrUnknown = errors.New("there is no user of that name")
	ErrInvalid = errors.New("cannot log in")
	// ErrForm: the file is valid, but written in a way that is not edited here.
	ErrForm = errors.New("the file is written in a way that only a person can change: give each user a line of his own, name: {password: \"…\"}")
)

// CheckPassword says whether a new password can be used with SASL PLAIN (RFC 4616) and is not too easily guessed: 8 to
// 1024 octets of UTF-8 without NUL or other control characters, which cannot be typed at a login.
func CheckPassword(password string) error {
	switch {
	case len(password) < MinPassword:
		return fmt.Errorf("%w: a password has at least %d octets", ErrInvalid, MinPassword)
	case len(password) > MaxPassword:
		return fmt.Errorf("%w: a password has at most %d octets", ErrInvalid, MaxPassword)
	case !utf8.ValidString(password):
		return fmt.Errorf("%w: the password is not UTF-8", ErrInvalid)
	case strings.ContainsFunc(password, control):
		return fmt.Errorf("%w: the password has a control character", ErrInvalid)
	}
	return nil
}

// CheckName says whether a new user can have this name: 1 to 256 octets of UTF-8, no control characters, no space
// around it.
func CheckName(name string) error {
	if err := checkName(name); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if !utf8.ValidString(name) || strings.ContainsFunc(name, control) {
		return fmt.Errorf("%w: user name %q: must be UTF-8 without control characters", ErrInvalid, name)
	}
	return nil
}

func control(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }

// change is one edit of a users file: an empty hash deletes.
type change struct {
	name, hash string
}

// edit makes a change in the text of a users file and nowhere else: comments, order and line ends stay. What comes out
// was read again, and says what was meant and no more.
func edit(data []byte, c change) ([]byte, error) {
	before, err := entries(data)
	if err != nil {
		return nil, err
	}
	want := maps.Clone(before)
	if c.hash == "" {
		delete(want, c.name)
	} else {
		want[c.name] = c.hash
	}
	t, err := locate(data)
	if err != nil {
		return nil, err
	}
	_, known := before[c.name]
	for candidate := range t.candidates(c, known) {
		if got, err := entries(candidate); err == nil && maps.Equal(got, want) {
			return candidate, nil
		}
	}
	return nil, ErrForm
}

// entries are the users of a file with their hashes. A file that a login could not use is an error.
func entries(data []byte) (map[string]string, error) {
	if _, err := parse(data); err != nil {
		return nil, err
	}
	var file struct {
		Users map[string]struct {
			Password string `yaml:"password"`
		} `yaml:"users"`
	}
	if err := yaml.UnmarshalWithOptions(data, &file, yaml.Strict()); err != nil && len(bytes.TrimSpace(data)) > 0 {
		return nil, fmt.Errorf("malformed: %s", withoutSnippet(err))
	}
	out := make(map[string]string, len(file.Users))
	for name, u := range file.Users {
		out[name] = u.Password
	}
	return out, nil
}

// names of a file, sorted.
func names(data []byte) ([]string, error) {
	all, err := entries(data)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(all)), nil
}

// plainName are the names that need no quotes as a key, and are no other value of YAML.
var plainName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._@+-]*$`)

// key is a name as a key of YAML.
func key(name string) string {
	switch strings.ToLower(name) {
	case "y", "n", "yes", "no", "on", "off", "true", "false", "null":
	default:
		if plainName.MatchString(name) {
			return name
		}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(name); err != nil {
		return "" // a string is always encoded
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// entry is a user as it stands in the file.
func entry(c change) string { return key(c.name) + `: {password: "` + c.hash + `"}` }
