// Command clamd takes what antivirus sends to a clamd (INSTREAM), looks at nothing, and finds nothing. What scanning
// costs is left out of the bench; what it costs to have it done is not.
package main

import (
	"bufio"
	"encoding/binary"
	"flag"
	"io"
	"log"
	"net"
)

func main() {
	addr := flag.String("listen", "127.0.0.1:3310", "address")
	flag.Parse()
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer c.Close()
			if err := scan(c); err != nil {
				log.Print(err)
			}
		}()
	}
}

// scan answers one command, then the connection ends, as with clamd's z commands outside of a session.
func scan(c net.Conn) error {
	r := bufio.NewReaderSize(c, 128<<10)
	cmd, err := r.ReadString(0)
	if err != nil {
		return err
	}
	if cmd != "zINSTREAM\x00" {
		_, err := io.WriteString(c, "UNKNOWN COMMAND\x00")
		return err
	}
	for {
		var size [4]byte
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return err
		}
		n := binary.BigEndian.Uint32(size[:])
		if n == 0 {
			_, err := io.WriteString(c, "stream: OK\x00")
			return err
		}
		for left := int(n); left > 0; {
			d, err := r.Discard(min(left, 64<<10))
			if err != nil {
				return err
			}
			left -= d
		}
	}
}
