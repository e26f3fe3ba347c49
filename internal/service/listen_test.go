package service

import (
	"net"
	"os"
	"testing"
)

// A service is reached by its name over every network that it is on, whatever the name means here; by an address, there
// alone. Without certificates nothing is opened beyond what was asked for.
func TestListenByName(t *testing.T) {
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for address, everywhere := range map[string]bool{name + ":0": true, "no-such-host.invalid:0": true, "127.0.0.1:0": false, "localhost:0": false, "192.0.2.1:0": true} {
		l, err := listen(address, true)
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		if got := l.Addr().(*net.TCPAddr).IP.IsUnspecified(); got != everywhere {
			t.Errorf("%s: listens on %v", address, l.Addr())
		}
		_ = l.Close()
	}
	if l, err := listen("192.0.2.1:0", false); err == nil {
		_ = l.Close()
		t.Errorf("without certificates it listens on %v", l.Addr())
	}
}
