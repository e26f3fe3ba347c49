// Command disclaimer serves the stage type disclaimer.
package main

import (
	"github.com/stagecoachmail/stagecoach/services/disclaimer"
	"github.com/stagecoachmail/stagecoach/stage/serve"
)

func main() { serve.Main(disclaimer.Factory()) }
