package disclaimer

import (
	"strings"
	"testing"
)

// "^" stands where the fragment goes.
func TestBodyEnd(t *testing.T) {
	for _, marked := range []string{
		"<html><body>x^</body></html>",
		"<html><body>x^</BODY\r\n ></html>",
		"x^</html>",
		"x^",
		"^",
		"x^</body></html><p>behind</p>",
		"<body>a</body><body>b^</body>",
		"<body>x^</body><!-- </body> -->",
		"<body>x^</body><!-- </body>",
		"<body>x<!--></body>--></body>y^</body>",
		"<body>x</body><!--->^</body >",
		"<body>x<!-- --!>^</body>",
		"<body>x^</body><!-- -- > </body> -->",
		"<script>'</body>'</script>x^</body>",
		"<script>'</body>'</scripting></body></script >x^</body>",
		"x^<script>'</body>'",
		"<style></body></style>^",
		"<title></body></title>^</html>",
		"<textarea></body></TEXTAREA\t>^",
		"x^<plaintext></body></plaintext></body>",
		"<a title='</body>'>x</a>^",
		"<a title=\"</body>\">x</a>^",
		"<a title=it's>x</a>^</body>",
		"<a title = \"'\">x</a>^</body>",
		"x^<a title=\"</body>",
		"a < b </ body>^",
		"</bodyx>^",
		"x^<",
		"x^</bod",
		"<![if !mso]>x^</body><![endif]>",
		"<?xml version='1.0'?>x^</body>",
		"<<</b>x^</body>",
	} {
		in := strings.Replace(marked, "^", "", 1)
		at := 0
		b := bodyEnd{at: func() place { return place{raw: int64(at)} }}
		for ; at < len(in); at++ {
			b.char(in[at])
		}
		got := b.place(place{raw: int64(len(in))}).raw
		if want := int64(strings.IndexByte(marked, '^')); want != got {
			t.Errorf("%s: at %d, not %d", in, got, want)
		}
	}
}
