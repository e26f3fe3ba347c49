package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes, written with its unit: "50MB" is 50·10^6, "64MiB" is 64·2^20.
type Size int64

var units = []struct {
	suffix string
	factor int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

// UnmarshalText reads a whole number with a unit.
func (s *Size) UnmarshalText(text []byte) error {
	for _, u := range units {
		digits, ok := strings.CutSuffix(string(text), u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimRight(digits, " "), 10, 63)
		if err != nil {
			break
		}
		if int64(n) > math.MaxInt64/u.factor {
			return fmt.Errorf("%q is too large", text)
		}
		*s = Size(int64(n) * u.factor)
		return nil
	}
	return fmt.Errorf("%q is not a size: a whole number with B, KB, MB, GB, KiB, MiB or GiB", text)
}

// String gives the size in the largest unit that leaves a whole number.
func (s Size) String() string {
	best, factor := "B", int64(1)
	for _, u := range units {
		if u.factor > factor && s != 0 && int64(s)%u.factor == 0 {
			best, factor = u.suffix, u.factor
		}
	}
	return strconv.FormatInt(int64(s)/factor, 10) + best
}
