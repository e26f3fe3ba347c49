// Command antivirus serves the stage type antivirus.
package main

import (
	"github.com/stagecoachmail/stagecoach/services/antivirus"
	"github.com/stagecoachmail/stagecoach/stage/serve"
)

func main() { serve.Main(antivirus.Factory()) }
