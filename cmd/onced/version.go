package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is the release that this tree becomes.
const version = "0.1.0"

type versionCmd struct{}

// Run prints the release, the commit where the build knows it, and what it was
// built with.
func (versionCmd) Run(s *session) error {
	commit := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" && len(setting.Value) >= 12 {
				commit = "commit " + setting.Value[:12] + ", "
			}
		}
	}
	_, err := fmt.Fprintf(s.stdout, "onced %s (%s%s, %s/%s)\n", version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
