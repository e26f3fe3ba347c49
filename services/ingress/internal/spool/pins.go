package spool

// pins counts, for every record of the log from the floor on, what still needs it. The floor is the first record
// that something needs.
type pins struct {
	base uint64 // sequence of counts[0]
	// counts grows at the end with the log and shrinks at the front with the floor.
	counts []int32
}

// append makes seq the last known record.
func (p *pins) append(seq uint64) {
	if len(p.counts) == 0 {
		p.base = seq
	}
	for p.base+uint64(len(p.counts)) <= seq {
		p.counts = append(p.counts, 0)
	}
}

// pin keeps a record; one below the floor has nothing left to keep.
func (p *pins) pin(seq uint64) {
	if i, ok := p.at(seq); ok {
		p.counts[i]++
	}
}

func (p *pins) unpin(seq uint64) {
	if i, ok := p.at(seq); ok {
		p.counts[i]--
	}
}

// floor is the sequence below which nothing is needed; 0 if nothing was ever appended.
func (p *pins) floor() uint64 {
	n := 0
	for n < len(p.counts) && p.counts[n] == 0 {
		n++
	}
	// The last record stays counted, so that base is never lost.
	if n == len(p.counts) && n > 0 {
		n--
		p.trim(n)
		return p.base + 1
	}
	p.trim(n)
	return p.base
}

func (p *pins) trim(n int) {
	if n == 0 {
		return
	}
	p.base += uint64(n)
	p.counts = p.counts[n:]
	if cap(p.counts) > 4096 && len(p.counts) < cap(p.counts)/4 {
		p.counts = append(make([]int32, 0, 2*len(p.counts)), p.counts...)
	}
}

func (p *pins) at(seq uint64) (int, bool) {
	if seq < p.base || seq-p.base >= uint64(len(p.counts)) {
		return 0, false
	}
	return int(seq - p.base), true
}
