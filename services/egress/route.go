package egress

import (
	"errors"
	"path/filepath"

	"github.com/stagecoachmail/stagecoach/internal/config"
)

// settings is everything of a configuration that a route depends on.
type settings struct {
	route        config.Route
	hostname     string
	dir, dataDir string
}

func (e *Egress) newRoute(c *config.Config, r *config.Route) (*route, error) {
	rt := &route{routeKey: routeKey{r.Name, r.Hash}, settings: settings{route: *r, hostname: c.Hostname, dir: c.Dir, dataDir: c.DataDir}}
	rt.metrics = e.metrics.route(r.Name)
	var err error
	kinds := 0
	if r.Smarthost != nil {
		kinds++
		rt.way, err = e.newSmarthost(c, r.Name, *r.Smarthost)
	}
	if r.MX != nil {
		kinds++
		rt.way, err = e.newExchangers(c, r.Name, *r.MX)
	}
	if r.Maildir != nil {
		kinds++
		rt.way, err = newFolder(c, r.Name, *r.Maildir)
	}
	if kinds != 1 {
		return nil, errors.New("a route is exactly one of smarthost, mx and maildir")
	}
	if err != nil {
		return nil, err
	}
	return rt, nil
}

// within makes a relative path start at dir.
func within(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
