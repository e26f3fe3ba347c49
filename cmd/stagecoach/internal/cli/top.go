package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/protobuf/encoding/protojson"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
)

const (
	// topWindow is over how many intervals the rates on a terminal are taken.
	topWindow = 10
	// topWithin bounds one look.
	topWithin = 5 * time.Second
	// topLeast is the shortest interval.
	topLeast = 100 * time.Millisecond
)

func (a *app) topCommand() *cobra.Command {
	var interval time.Duration
	c := &cobra.Command{
		Use:   "top",
		Short: "Watch the mail go by: rates, rooms, chains, stages and routes, live",
		Long: `Watch the mail go by: what is accepted, delivered and refused in a second, what waits, how long stages take, how routes
fare, what is down, and what is wrong. On a terminal the picture is drawn anew at each interval, with the rates of the last
ten; q or Ctrl-C ends it. In a pipe it is printed once, with the rates of one interval. With --json there is one line at each
interval, until it is interrupted.`,
		Example: `  stagecoach top
  stagecoach top --interval 10s | mail -s "an hour of mail" it@example.com
  stagecoach top --json | jq .rates.delivered`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if interval < topLeast {
				return usagef("--interval %s is too short: at least %s", interval, topLeast)
			}
			return a.asked(cmd, func(ctx context.Context, conn clientConn, o *output) error {
				t := &top{app: a, conn: conn, interval: interval, out: cmd.OutOrStdout(), in: cmd.InOrStdin()}
				switch {
				case o.asJSON:
					return t.lines(ctx)
				case o.terminal:
					return t.live(ctx)
				}
				return t.once(ctx, o)
			})
		},
	}
	a.connection(c)
	c.Flags().BoolVar(&a.asJSON, "json", false, "a line of JSON at each interval, for programs")
	c.Flags().DurationVarP(&interval, "interval", "i", time.Second, "`time` between two looks")
	return c
}

// top is one that runs.
type top struct {
	*app
	conn     clientConn
	interval time.Duration
	out      io.Writer
	in       io.Reader
}

func (t *top) look(ctx context.Context) (topSample, error) {
	ctx, cancel := context.WithTimeout(ctx, topWithin)
	defer cancel()
	stats, err := adminv1.NewStatisticsServiceClient(t.conn).GetStatistics(ctx, &adminv1.GetStatisticsRequest{})
	if err != nil {
		return topSample{}, err
	}
	status, err := adminv1.NewStatusServiceClient(t.conn).GetStatus(ctx, &adminv1.GetStatusRequest{})
	return topSample{stats, status}, err
}

// pause waits for the next look; false: there is none, ctx has ended.
func (t *top) pause(ctx context.Context) bool {
	timer := time.NewTimer(t.interval)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// once prints one picture with the rates of one interval.
func (t *top) once(ctx context.Context, o *output) error {
	first, err := t.look(ctx)
	if err != nil {
		return err
	}
	if !t.pause(ctx) {
		return ctx.Err()
	}
	second, err := t.look(ctx)
	if err != nil {
		return err
	}
	o.top(spanOf(first.stats, second.stats), second.status)
	return nil
}

// topLine is what a program gets.
type topLine struct {
	At         time.Time       `json:"at"`
	Seconds    float64         `json:"seconds"`
	Rates      topRates        `json:"rates"`
	Statistics json.RawMessage `json:"statistics"`
	Status     json.RawMessage `json:"status"`
}

// lines prints a line of JSON at each interval.
func (t *top) lines(ctx context.Context) error {
	before, err := t.look(ctx)
	if err != nil {
		return err
	}
	for t.pause(ctx) {
		now, err := t.look(ctx)
		if err != nil {
			return err
		}
		span := spanOf(before.stats, now.stats)
		line := topLine{At: now.stats.GetAt().AsTime(), Seconds: span.seconds, Rates: span.rates()}
		if line.Statistics, err = (protojson.MarshalOptions{EmitDefaultValues: true}).Marshal(now.stats); err != nil {
			return err
		}
		if line.Status, err = (protojson.MarshalOptions{EmitDefaultValues: true}).Marshal(now.status); err != nil {
			return err
		}
		text, err := json.Marshal(line)
		if err != nil {
			return err
		}
		if _, err := t.out.Write(append(escapeJSON(text), '\n')); err != nil {
			return err
		}
		before = now
	}
	return nil
}

// The words of a terminal (ECMA-48; the alternate screen is xterm's).
const (
	screenOn   = "\x1b[?1049h\x1b[?25l"
	screenOff  = "\x1b[?25h\x1b[?1049l"
	screenHome = "\x1b[H"
	lineEnd    = "\x1b[K\r\n"
	screenRest = "\x1b[J"
)

// live draws the picture until q, Ctrl-C or the end of ctx. The terminal is given back as it was.
func (t *top) live(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if f, ok := t.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		was, err := term.MakeRaw(int(f.Fd()))
		if err != nil {
			return err
		}
		defer func() { _ = term.Restore(int(f.Fd()), was) }() //nolint:errcheck // nothing can be done about it
		go quitBy(f, cancel)
	}
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	if _, err := io.WriteString(t.out, screenOn); err != nil {
		return err
	}
	defer func() {
		_, restored := io.WriteString(t.out, screenOff)
		err = errors.Join(err, restored)
	}()
	var samples []topSample
	ticker := time.NewTicker(t.interval)
	defer ticker.Stop()
	for look := true; ; {
		if look {
			var s topSample
			if s, err = t.look(ctx); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
			if samples = append(samples, s); len(samples) > topWindow+1 {
				samples = samples[1:]
			}
		}
		if err := t.draw(samples); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-resized:
			look = false
		case <-ticker.C:
			look = true
		}
	}
}

// quitBy ends it at q, Ctrl-C or Ctrl-D. It ends itself with its reader, or with the process.
func quitBy(in io.Reader, quit func()) {
	var b [1]byte
	for {
		n, err := in.Read(b[:])
		if n == 1 && (b[0] == 'q' || b[0] == 'Q' || b[0] == 3 || b[0] == 4) || err != nil {
			quit()
			return
		}
	}
}

// draw draws a picture over the one before, as far as it fits.
func (t *top) draw(samples []topSample) error {
	last := samples[len(samples)-1]
	var picture bytes.Buffer
	o := t.output(&picture)
	o.width, o.terminal = t.Width(t.out)
	o.colour = o.terminal && t.Getenv("NO_COLOR") == "" && t.Getenv("TERM") != "dumb"
	o.top(spanOf(samples[0].stats, last.stats), last.status)
	if err := o.close(); err != nil {
		return err
	}
	lines := bytes.Split(bytes.TrimRight(picture.Bytes(), "\n"), []byte("\n"))
	if rows := t.rows(); rows > 0 && len(lines) > rows {
		lines = lines[:rows]
	}
	frame := append([]byte(screenHome), bytes.Join(lines, []byte(lineEnd))...)
	_, err := t.out.Write(append(frame, "\x1b[K"+screenRest...))
	return err
}

// rows is how many lines the terminal has; 0: nobody knows.
func (t *top) rows() int {
	f, ok := t.out.(*os.File)
	if !ok {
		return 0
	}
	_, rows, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return rows
}
