// Command tagger is a whole stage: it puts a tag before the subject of what strangers send.
package main

import (
	"context"
	"errors"
	"strings"

	"github.com/stagecoachmail/stagecoach/mail"
	"github.com/stagecoachmail/stagecoach/stage"
	"github.com/stagecoachmail/stagecoach/stage/serve"
)

type config struct {
	Tag string `yaml:"tag"`
}

func (c *config) Validate() error {
	if strings.ContainsFunc(c.Tag, func(r rune) bool { return r < ' ' || r > '~' }) || c.Tag == "" {
		return errors.New("tag: must be printable ASCII, and not empty")
	}
	return nil
}

// Process implements stage.Stage.
func (c config) Process(_ context.Context, m *mail.Message) (stage.Result, error) {
	header, res := m.Content.Header(), stage.Result{}
	for _, f := range header.Find("Subject") {
		if m.Envelope.Origin.Direction == mail.Inbound && !strings.HasPrefix(f.Value(), c.Tag) {
			value := f.Offset + int64(strings.IndexByte(string(f.Raw), ':')) + 1
			res.Edits.Splices = append(res.Edits.Splices, mail.Splice{Offset: value, Insert: []byte(" " + c.Tag)})
		}
	}
	return res, header.Err
}

func factory() stage.Factory {
	return stage.NewFactory("tagger", stage.Traits{EditsHeader: true}, func() config { return config{Tag: "[external]"} },
		func(_ stage.Settings, c config) (stage.Stage, error) { return c, nil })
}

func main() { serve.Main(factory()) }
