package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func prepareCommand() *cobra.Command {
	var owner string
	c := &cobra.Command{
		Use:   "prepare PATH...",
		Short: "Make the folders of containers, for a user that may not make them",
		Long: `Make folders that belong to --owner and that nobody else can enter; a PATH that ends in .yaml becomes an empty users file. What is
there keeps what it holds; if it belongs to root it is given to the owner. Folders above a PATH must be there, or are made for
root.

It runs as root before services that do not: the folders that an engine makes for them belong to root.`,
		Example:           "  stagecoach prepare --owner 10001:10001 /data/nats /data/ingress /data/users/users.yaml",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(_ *cobra.Command, paths []string) error {
			uid, gid, err := ownerOf(owner)
			if err != nil {
				return err
			}
			for _, p := range paths {
				if err := prepare(filepath.Clean(p), uid, gid); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&owner, "owner", "10001:10001", "`uid:gid` of the services")
	return c
}

// ownerOf reads uid:gid.
func ownerOf(s string) (uid, gid int, err error) {
	u, g, ok := strings.Cut(s, ":")
	if ok {
		uid, err = strconv.Atoi(u)
	}
	if ok && err == nil {
		gid, err = strconv.Atoi(g)
	}
	if !ok || err != nil || uid < 0 || gid < 0 {
		return 0, 0, fmt.Errorf("--owner %q is not uid:gid, such as 10001:10001", s)
	}
	return uid, gid, nil
}

// noUsers is a users file before its first user.
const noUsers = "users: {}\n"

// prepare makes one folder or users file. The file is given away before its folder, into which root may not look then.
func prepare(path string, uid, gid int) error {
	if filepath.Ext(path) != ".yaml" {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return err
		}
		return giveAway(path, uid, gid)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if st, err := os.Stat(dir); err != nil {
		return err
	} else if sys, ok := st.Sys().(*syscall.Stat_t); ok && int(sys.Uid) == uid && uid != os.Geteuid() {
		return nil // it was prepared before
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	switch {
	case err == nil:
		_, err = f.WriteString(noUsers)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrExist):
		return err
	}
	if err := giveAway(path, uid, gid); err != nil {
		return err
	}
	return prepare(dir, uid, gid)
}

// giveAway gives what belongs to root to the owner; what belongs to somebody else is his.
func giveAway(path string, uid, gid int) error {
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	switch {
	case !ok || int(sys.Uid) == uid:
		return nil
	case sys.Uid != 0:
		return fmt.Errorf("%s belongs to user %d, and the services run as %d: chown -R %d:%d it", path, sys.Uid, uid, uid, gid)
	case st.Mode()&fs.ModeSymlink != 0:
		return fmt.Errorf("%s is a link: put a folder there", path)
	case st.IsDir():
		if err := os.Chmod(path, 0o700); err != nil {
			return err
		}
	}
	return os.Lchown(path, uid, gid)
}
