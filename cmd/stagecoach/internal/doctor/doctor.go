// Package doctor looks at an installation from the machine that it runs on, and says of each thing what is wrong and
// what to do. It changes nothing and sends no mail.
package doctor

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Level says how bad a finding is.
type Level string

// The levels, the best first.
const (
	OK Level = "ok"
	// Info is for people to know; nothing has to be done.
	Info Level = "info"
	// Warning: mail flows; someone should look.
	Warning Level = "warning"
	// Error: mail does not flow, is refused by others, or will soon be.
	Error Level = "error"
)

// Finding is one thing that a check has found.
type Finding struct {
	Check string `json:"check"`
	// Subject is what it is about: a domain, a listener, a route, a file.
	Subject string `json:"subject"`
	Level   Level  `json:"level"`
	Text    string `json:"text"`
	// Remedy is what to do; there for warnings and errors.
	Remedy string `json:"remedy,omitempty"`
}

// Check is one kind of thing to look at.
type Check struct {
	Name string
	// Run gives findings without the check's name. It ends soon after ctx.
	Run func(ctx context.Context, e *Env) []Finding
}

// The time that a diagnosis takes at most is patience and grace together.
const (
	patience = 25 * time.Second
	// grace is for a check to say what it was waiting for, once its time is over.
	grace = 2 * time.Second
)

// Checks are all there are, in the order in which they are shown.
func Checks() []Check {
	return []Check{
		{"configuration", checkConfig},
		{"running", checkRunning},
		{"ports", checkPorts},
		{"certificates", checkCertificates},
		{"hostname", checkHostname},
		{"mx", checkMX},
		{"spf", checkSPF},
		{"dkim", checkDKIM},
		{"dmarc", checkDMARC},
		{"routes", checkRoutes},
		{"nats", checkNATS},
		{"clamd", checkClamd},
		{"clock", checkClock},
		{"disk", checkDisk},
	}
}

// Run makes the checks, all at once, and gives what they found in their order. Where the configuration could not be
// read there is nothing else to look at.
func Run(ctx context.Context, e *Env, checks []Check) []Finding {
	return run(ctx, e, checks, patience, grace)
}

func run(ctx context.Context, e *Env, checks []Check, patience, grace time.Duration) []Finding {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if e.Config == nil {
		checks = []Check{{"configuration", checkConfig}}
	}
	found := make([]chan []Finding, len(checks))
	for i, c := range checks {
		found[i] = make(chan []Finding, 1) // so that one that comes too late can end
		go func() { found[i] <- c.Run(ctx, e) }()
	}
	over := time.NewTimer(patience + grace)
	defer over.Stop()
	expired := make(chan struct{})
	var all []Finding
	for i, c := range checks {
		list, ok := await(found[i], over.C, expired)
		if !ok {
			list = []Finding{{Level: Warning, Text: fmt.Sprintf("gave no result within %v", patience+grace),
				Remedy: "Something that this check waits for hangs: a network file system, or a server that takes connections and says nothing."}}
		}
		for _, f := range list {
			f.Check = c.Name
			all = append(all, f)
		}
	}
	return all
}

// await gives what a check has found, or false when the time is over. The first that sees that closes expired.
func await(found <-chan []Finding, over <-chan time.Time, expired chan struct{}) ([]Finding, bool) {
	select {
	case list := <-found:
		return list, true
	case <-over:
		close(expired)
	case <-expired:
	}
	select {
	case list := <-found:
		return list, true
	default:
		return nil, false
	}
}

// Worst is the highest level among findings.
func Worst(findings []Finding) Level {
	worst := OK
	rank := map[Level]int{OK: 0, Info: 1, Warning: 2, Error: 3}
	for _, f := range findings {
		if rank[f.Level] > rank[worst] {
			worst = f.Level
		}
	}
	return worst
}

// notes collects the findings of one check.
type notes []Finding

func (n *notes) ok(subject, format string, args ...any) {
	*n = append(*n, Finding{Subject: subject, Level: OK, Text: fmt.Sprintf(format, args...)})
}

func (n *notes) info(subject, format string, args ...any) {
	*n = append(*n, Finding{Subject: subject, Level: Info, Text: fmt.Sprintf(format, args...)})
}

func (n *notes) warn(subject, remedy, format string, args ...any) {
	*n = append(*n, Finding{Subject: subject, Level: Warning, Text: fmt.Sprintf(format, args...), Remedy: remedy})
}

func (n *notes) fail(subject, remedy, format string, args ...any) {
	*n = append(*n, Finding{Subject: subject, Level: Error, Text: fmt.Sprintf(format, args...), Remedy: remedy})
}

// bad says that something stands in the notes already that a person has to look at.
func (n notes) bad() bool { l := Worst(n); return l == Warning || l == Error }

// atOnce bounds the questions about several subjects that one check asks at the same time.
const atOnce = 8

// each looks at subjects, several at once, and puts what was found in their order.
func each[S any](subjects []S, look func(S) notes) []Finding {
	found := make([]notes, len(subjects))
	places := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i, s := range subjects {
		wg.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			found[i] = look(s)
		})
	}
	wg.Wait()
	var all []Finding
	for _, n := range found {
		all = append(all, n...)
	}
	return all
}
