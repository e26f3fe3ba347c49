// Package corpus makes the messages that are sent: the same ones from the same seed.
package corpus

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
)

// Names are the corpora, the smallest first.
var Names = []string{"10k", "mixed", "1m", "10m"}

const (
	// mixedMedian and mixedMean are of the sizes of the mixed corpus, in bytes.
	mixedMedian, mixedMean = 15_000, 60_000
	// mixedMessages is a power of two: see spread.
	mixedMessages = 256
	// smallest is the size in bytes under which no message is.
	smallest = 800
)

// Message is one message in its form on the wire (CRLF; no line begins with a dot, so there is none to stuff), cut where
// its token goes.
type Message struct {
	before, after []byte
	room          int
}

// Size is the size of the message in bytes, with its token, without the final dot.
func (m *Message) Size() int { return len(m.before) + m.room + len(m.after) }

// Buffers are the bytes of the message with its token, which is as long as was asked for when the corpus was made.
func (m *Message) Buffers(token string) net.Buffers {
	return net.Buffers{m.before, []byte(token), m.after}
}

// Corpus is a set of messages.
type Corpus struct {
	Name     string
	Messages []Message
}

// At is message i; after the last one follows the first.
func (c *Corpus) At(i int) *Message { return &c.Messages[i%len(c.Messages)] }

// New makes the corpus of that name from seed, for tokens of room bytes.
func New(name string, seed uint64, room int) (*Corpus, error) {
	w := &writer{rng: rand.New(rand.NewPCG(seed, uint64(slices.Index(Names, name)))), room: room}
	w.words = vocabulary(w.rng)
	c := &Corpus{Name: name}
	add := func(n int, write func(size int), size func(i int) int) {
		for i := range n {
			w.begin(i)
			write(max(size(i), smallest))
			c.Messages = append(c.Messages, w.message())
		}
	}
	always := func(size int) func(int) int { return func(int) int { return size } }
	switch name {
	case "10k":
		add(64, w.plain, always(10_000))
	case "mixed":
		sizes := spread(logNormal(mixedMessages, mixedMedian, mixedMean))
		add(mixedMessages, w.mixed, func(i int) int { return sizes[i] })
	case "1m":
		add(8, w.attached, always(1_000_000))
	case "10m":
		add(2, w.attached, always(10_000_000))
	default:
		return nil, fmt.Errorf("there is no corpus %q, only %s", name, strings.Join(Names, ", "))
	}
	return c, w.err
}

// logNormal gives n sizes of a log-normal distribution, ascending: the mean of each of n strata of equal probability. So
// the mean of all is that of the distribution, which drawing them would miss by far: the largest hundredth has a quarter
// of the bytes.
func logNormal(n int, median, mean float64) []int {
	sigma := math.Sqrt(2 * math.Log(mean/median))
	normal := func(z float64) float64 { return 0.5 * math.Erfc(-z/math.Sqrt2) }
	border := func(i int) float64 { return math.Sqrt2 * math.Erfinv(2*float64(i)/float64(n)-1) }
	sizes := make([]int, n)
	for i := range sizes {
		sizes[i] = int(float64(n) * mean * (normal(border(i+1)-sigma) - normal(border(i)-sigma)))
	}
	return sizes
}

// spread puts ascending sizes into an order in which every stretch is about like the whole (van der Corput's): a
// measurement that ends anywhere has seen its share of large ones. Their number is a power of two.
func spread(sizes []int) []int {
	width := bits.Len(uint(len(sizes) - 1))
	out := make([]int, len(sizes))
	for i := range out {
		out[i] = sizes[bits.Reverse(uint(i))>>(bits.UintSize-width)]
	}
	return out
}
