package service

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
)

func TestResolve(t *testing.T) {
	t.Parallel()
	names := map[string][]string{"four": {"10.0.0.2", "10.0.0.1", "10.0.0.2"}, "both": {"fd00::1", "10.0.0.3"}, "six": {"fd00::2", "fd00::1"}, "mapped": {"::ffff:10.0.0.4"}, "empty": {}}
	lookup := func(_ context.Context, host string) ([]netip.Addr, error) {
		list, ok := names[host]
		if !ok {
			return nil, errors.New("no such host")
		}
		var out []netip.Addr
		for _, s := range list {
			out = append(out, netip.MustParseAddr(s))
		}
		return out, nil
	}
	for address, want := range map[string][]string{
		"four:7001":        {"10.0.0.1:7001", "10.0.0.2:7001"},
		"both:7001":        {"10.0.0.3:7001"},
		"six:7001":         {"[fd00::1]:7001", "[fd00::2]:7001"},
		"mapped:7001":      {"10.0.0.4:7001"},
		"127.0.0.1:7001":   {"127.0.0.1:7001"},
		"[::1]:7001":       {"[::1]:7001"},
		"unix:/run/x.sock": {"unix:/run/x.sock"},
		"empty:7001":       nil,
		"gone:7001":        nil,
		"four":             nil,
	} {
		got, err := Resolve(t.Context(), lookup, address)
		if !slices.Equal(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%s: %v, %v", address, got, err)
		}
	}
}
