package disclaimer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Config is the operator's part: the text, and the HTML if it is not to be made from the text.
type Config struct {
	// Text is the template for text/plain parts; TextFile names a file that holds it instead, relative to the configuration
	// file. One of them is required.
	Text     string `yaml:"text"`
	TextFile string `yaml:"text_file"`
	// HTML is the template for text/html parts, a fragment; HTMLFile names a file instead. Without both, the text is used,
	// escaped, with a <br> for each line end.
	HTML     string `yaml:"html"`
	HTMLFile string `yaml:"html_file"`
}

// maxTemplate bounds a template in bytes.
const maxTemplate = 64 << 10

// Validate checks what can be checked without reading files.
func (c *Config) Validate() error {
	var errs []error
	switch {
	case c.Text != "" && c.TextFile != "":
		errs = append(errs, errors.New("text and text_file: only one of them may be given"))
	case c.Text == "" && c.TextFile == "":
		errs = append(errs, errors.New("text: is required (or text_file); html is made from it if there is none"))
	}
	if c.HTML != "" && c.HTMLFile != "" {
		errs = append(errs, errors.New("html and html_file: only one of them may be given"))
	}
	if c.Text != "" {
		if _, err := parseText(c.Text); err != nil {
			errs = append(errs, fmt.Errorf("text: %w", err))
		} else if _, err := parseHTML(htmlFromText(c.Text)); err != nil {
			errs = append(errs, fmt.Errorf("text: %w", err))
		}
	}
	if c.HTML != "" {
		if _, err := parseHTML(c.HTML); err != nil {
			errs = append(errs, fmt.Errorf("html: %w", err))
		}
	}
	return errors.Join(errs...)
}

// load gives the templates, from the files where the configuration names some.
func (c Config) load(dir string) (text *textTemplate, html *htmlTemplate, err error) {
	source, err := readTemplate(c.Text, c.TextFile, dir)
	if err != nil {
		return nil, nil, fmt.Errorf("text_file: %w", err)
	}
	if text, err = parseText(source); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", origin("text", c.TextFile), err)
	}
	markup, err := readTemplate(c.HTML, c.HTMLFile, dir)
	if err != nil {
		return nil, nil, fmt.Errorf("html_file: %w", err)
	}
	if markup == "" && c.HTMLFile == "" {
		markup = htmlFromText(source)
	}
	if html, err = parseHTML(markup); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", origin("html", c.HTMLFile), err)
	}
	return text, html, nil
}

func origin(key, file string) string {
	if file == "" {
		return key
	}
	return key + "_file: " + file
}

func readTemplate(inline, file, dir string) (string, error) {
	if file == "" {
		return inline, nil
	}
	if !filepath.IsAbs(file) {
		file = filepath.Join(dir, file)
	}
	info, err := os.Stat(file)
	if err != nil {
		return "", err
	}
	if info.Size() > maxTemplate {
		return "", fmt.Errorf("%s: %d bytes; at most %d are allowed", file, info.Size(), maxTemplate)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	return string(b), nil
}
