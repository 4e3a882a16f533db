package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/onced/onced/cluster"
)

// peerList is "n1=host:port,n2=host:port".
type peerList []cluster.Peer

// Decode reads the list from a flag.
func (l *peerList) Decode(ctx *kong.DecodeContext) error {
	var text string
	if err := ctx.Scan.PopValueInto("peers", &text); err != nil {
		return err
	}
	*l = nil
	if strings.TrimSpace(text) == "" {
		return nil
	}
	for _, item := range strings.Split(text, ",") {
		id, addr, ok := strings.Cut(strings.TrimSpace(item), "=")
		if !ok {
			return fmt.Errorf("%q is not id=host:port", item)
		}
		*l = append(*l, cluster.Peer{ID: id, Addr: addr})
	}
	return nil
}

// byteSize is a number of bytes, written plainly or with KiB, MiB or GiB.
type byteSize int64

// Decode reads the size from a flag.
func (s *byteSize) Decode(ctx *kong.DecodeContext) error {
	var text string
	if err := ctx.Scan.PopValueInto("size", &text); err != nil {
		return err
	}
	n, err := parseByteSize(text)
	if err != nil {
		return err
	}
	*s = n
	return nil
}

// byteUnits are those of a byteSize, each 1024 times the one before.
var byteUnits = []string{"", "KiB", "MiB", "GiB"}

// String writes the size in the largest unit that it is a whole number of.
func (s byteSize) String() string {
	unit := 0
	for s != 0 && s%1024 == 0 && unit < len(byteUnits)-1 {
		s, unit = s/1024, unit+1
	}
	return strconv.FormatInt(int64(s), 10) + byteUnits[unit]
}

func parseByteSize(text string) (byteSize, error) {
	digits, shift := text, 0
	for i, unit := range byteUnits[1:] {
		if rest, ok := strings.CutSuffix(text, unit); ok {
			digits, shift = rest, 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("%q is not a size: use bytes, or a number with KiB, MiB or GiB", text)
	}
	return byteSize(n) << shift, nil
}
