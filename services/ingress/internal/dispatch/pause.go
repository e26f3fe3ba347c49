package dispatch

import (
	"github.com/stagecoachmail/stagecoach/internal/chain"
	"github.com/stagecoachmail/stagecoach/services/ingress/internal/spool"
)

// reasonPaused is the reason that is kept with what waits because its route is paused: after a restart it tells a
// route that a person stopped from one that was down.
const reasonPaused = "the route is paused"

// routePaused says that a person has stopped a route: nothing is sent by it, and it is not probed.
func (d *Dispatcher) routePaused(name string) bool {
	return d.o.RoutePaused != nil && d.o.RoutePaused(name)
}

// stopped says that what k stands for is not to be tried, however it is.
func (d *Dispatcher) stopped(k key) bool {
	return k.concern == chain.AboutRoute && d.routePaused(k.about)
}

func pausedFate(route string) chain.Fate {
	return chain.Fate{Kind: chain.Refused, Concern: chain.AboutRoute, About: route, Reason: reasonPaused}
}

// byPause says that a group is parked because its route was paused, whether it still is or not.
func byPause(w *spool.Wait) bool {
	return w.Room == spool.Park && w.Last.Concern == chain.AboutRoute && w.Last.Kind == chain.Refused && w.Last.Reason == reasonPaused
}

// RoutesChanged looks at everything that is parked after Options.RoutePaused has begun to answer otherwise: what a
// pause kept goes on, and what was parked before a hop now waits for its route instead.
func (d *Dispatcher) RoutesChanged() {
	d.gates.hurryRoutes()
	d.goOn()
}
