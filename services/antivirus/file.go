package antivirus

import (
	"path"
	"slices"
	"strings"

	"github.com/stagecoachmail/stagecoach/mail"
)

// file is one attachment, or a file in an archive, as its bytes come in. Close ends its examination.
type file struct {
	x        *exam
	where    string
	names    []string
	declared string

	find    signatureFinder
	head    []byte
	decided bool
	archive bool
	message bool
	keep    *mail.Builder // of an archive or message, which cannot be examined before it is whole
}

func (x *exam) newFile(where string, names []string) *file {
	x.left.files--
	return &file{x: x, where: where, names: names}
}

func (f *file) Write(p []byte) (int, error) {
	_, _ = f.find.Write(p)
	if !f.decided {
		f.head = append(f.head, p...)
		if len(f.head) < headSize {
			return len(p), nil
		}
		return len(p), f.decide()
	}
	if f.keep != nil {
		if _, err := f.keep.Write(p); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// decide judges the first bytes, and whether all are needed.
func (f *file) decide() error {
	f.decided = true
	head := f.head
	f.head = nil
	if k := kindOf(head[:min(len(head), headSize)]); f.x.rules.kinds[k] {
		f.x.find(blocked, "blocked: %s is of the kind %s", f.where, k)
	}
	f.archive = isZIP(head) || f.hasExt(zipExts) || slices.Contains(zipTypes, f.declared)
	// "message/…" has kinds that nobody takes for a message, and some that some do.
	f.message = f.hasExt([]string{".eml"}) || strings.HasPrefix(f.declared, "message/") && !slices.Contains(notMessages, f.declared)
	if !f.archive && !f.message {
		return nil
	}
	f.keep = mail.NewBuilder(f.x.tempDir)
	_, err := f.keep.Write(head)
	return err
}

var notMessages = []string{
	"message/delivery-status", "message/global-delivery-status", "message/disposition-notification",
	"message/global-disposition-notification", "message/feedback-report", "message/external-body", "message/partial",
}

func (f *file) hasExt(exts []string) bool {
	return slices.ContainsFunc(f.names, func(n string) bool {
		return slices.ContainsFunc(nameForms(n), func(form string) bool {
			return slices.Contains(exts, strings.ToLower(path.Ext(form)))
		})
	})
}

func (f *file) discard() {
	if f.keep != nil {
		f.keep.Discard()
	}
}

func (f *file) Close() error {
	defer f.discard()
	if !f.decided {
		if err := f.decide(); err != nil {
			return err
		}
	}
	if f.find.found {
		f.x.signature(f.where)
	}
	if f.keep == nil || f.x.done() || f.x.left.bytes == 0 {
		return nil
	}
	if f.archive {
		c, err := f.keep.Content()
		if err != nil {
			return err
		}
		defer c.Release()
		return f.x.zip(c, f.where)
	}
	return f.x.nested(f.keep)
}
