package main

import (
	"github.com/stagecoachmail/stagecoach/services/antivirus"
	"github.com/stagecoachmail/stagecoach/services/archive"
	"github.com/stagecoachmail/stagecoach/services/disclaimer"
	"github.com/stagecoachmail/stagecoach/services/signer"
	"github.com/stagecoachmail/stagecoach/stage"
)

// factories are the types of stages that this program can run.
func factories() []stage.Factory {
	return []stage.Factory{antivirus.Factory(), disclaimer.Factory(), archive.Factory(), signer.Factory()}
}
