// Command archive serves the stage type archive.
package main

import (
	"github.com/stagecoachmail/stagecoach/services/archive"
	"github.com/stagecoachmail/stagecoach/stage/serve"
)

func main() { serve.MainWith(archive.Factory(), archive.Services) }
