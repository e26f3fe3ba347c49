package users

import (
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
)

// maxUser bounds a user name in octets.
const maxUser = 256

// table is a users file, read and checked.
type table struct {
	users map[string]hash
	// dummy is checked in the place of a user that does not exist: as expensive as the most expensive of the others.
	dummy hash
}

// parse reads a users file strictly: unknown keys and names that stand twice are errors.
func parse(data []byte) (*table, error) {
	var file struct {
		Users map[string]struct {
			Password string `yaml:"password"`
		} `yaml:"users"`
	}
	if err := yaml.UnmarshalWithOptions(data, &file, yaml.Strict()); err != nil {
		// The library's snippet would put hashes into the log.
		return nil, fmt.Errorf("malformed: %s", withoutSnippet(err))
	}
	t := &table{users: make(map[string]hash, len(file.Users))}
	t.dummy = hash{memory: 19 << 10, time: 2, lanes: 1, salt: make([]byte, 16), key: make([]byte, 32)}
	for name, u := range file.Users {
		if err := checkName(name); err != nil {
			return nil, err
		}
		h, err := parsePHC(u.Password)
		if err != nil {
			return nil, fmt.Errorf("user %q: password: %w", name, err)
		}
		t.users[name] = h
	}
	first := true
	for _, h := range t.users {
		if first || h.cost() > t.dummy.cost() {
			t.dummy.memory, t.dummy.time, t.dummy.lanes = h.memory, h.time, h.lanes
			first = false
		}
	}
	return t, nil
}

func checkName(name string) error {
	if name == "" || len(name) > maxUser || strings.TrimSpace(name) != name {
		return fmt.Errorf("user name %q: must have 1 to %d octets and no space around it", name, maxUser)
	}
	for _, r := range name {
		if r < ' ' || r == 0x7f {
			return fmt.Errorf("user name %q: control characters are not allowed", name)
		}
	}
	return nil
}

func withoutSnippet(err error) string {
	line, _, _ := strings.Cut(yaml.FormatError(err, false, false), "\n")
	return line
}
