package corpus

import (
	"math"
	"math/rand/v2"
	"strings"
)

// width is how long a line of text gets, in bytes, before the next word goes to a new one.
const width = 66

// vocabulary makes words out of syllables; some have letters beyond ASCII.
func vocabulary(rng *rand.Rand) []string {
	syllables := strings.Fields("an be co da el fi go ha in jo ka le mi no or pa qui re sa to ur ve wi zen st er ing tion ent al ö ü ß é")
	words := make([]string, 600)
	for i := range words {
		var b strings.Builder
		for range 1 + rng.IntN(4) {
			b.WriteString(syllables[rng.IntN(len(syllables))])
		}
		words[i] = b.String()
	}
	return words
}

// word takes the front ones more often, as languages do.
func (w *writer) word() string {
	u := w.rng.Float64()
	return w.words[int(math.Pow(float64(len(w.words)), u))-1]
}

// sentences writes lines of about size bytes together. ascii replaces what is beyond it; around is put before and behind
// each paragraph.
func (w *writer) sentences(size int, ascii bool, before, behind string) {
	end := w.b.Len() + size
	line := 0
	for w.b.Len() < end {
		w.b.WriteString(before)
		for words, paragraph := 0, 20+w.rng.IntN(60); words < paragraph && w.b.Len() < end; words++ {
			word := w.word()
			if ascii {
				word = strings.NewReplacer("ö", "oe", "ü", "ue", "ß", "ss", "é", "e").Replace(word)
			}
			if line > 0 && line+len(word) > width {
				w.b.WriteString("\r\n")
				line = 0
			} else if line > 0 {
				w.b.WriteByte(' ')
			}
			w.b.WriteString(word)
			line += len(word) + 1
		}
		w.b.WriteString(behind)
		w.b.WriteString("\r\n")
		line = 0
	}
}
