package peer

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/onced/onced/cluster/durable"
	"github.com/onced/onced/fsm"
)

const (
	lockName        = "lock"
	identityName    = "identity.json"
	identityVersion = 1
)

// identity is the content of identity.json. Node id and incarnation are made
// with the directory and never change; the roster comes with formation or
// admission.
type identity struct {
	Version     int    `json:"version"`
	NodeID      string `json:"node_id"`
	Incarnation tag    `json:"incarnation"`
	// Seed is the SHA-256, in hex, of the backup that the directory began with.
	Seed string `json:"seed,omitempty"`
	roster
	// Joined is set if the node was admitted to a running cluster, and was not
	// there when that was formed.
	Joined bool `json:"joined"`
}

// Dir is a data directory in use by this process.
type Dir struct {
	path string // its name, where it is not in files
	keep Keeper

	mu sync.Mutex
	id identity
}

// Keeper keeps an identity for good.
type Keeper interface {
	// Save puts data in the place of what was kept, on disk when it returns.
	Save(data []byte) error
	// Close lets another process have it.
	Close() error
}

// fileKeeper keeps it in a file of the directory.
type fileKeeper struct {
	path     string
	*os.File // whose flock is what keeps a second process out
}

func (k fileKeeper) Save(data []byte) error {
	return durable.WriteFile(filepath.Join(k.path, identityName), data)
}

// NewDir is OpenDir for a data directory that is not in files: saved is what was
// saved last, nil at the beginning.
func NewDir(name, nodeID string, saved []byte, keep Keeper) (*Dir, error) {
	d := &Dir{path: name, keep: keep}
	var err error
	if saved == nil {
		d.id, err = makeIdentity(nodeID)
		if err == nil {
			err = save(keep, d.id)
		}
	} else {
		d.id, err = parseIdentity(saved)
	}
	if err == nil && d.id.NodeID != nodeID {
		err = fmt.Errorf("it belongs to node %s, not to %s", d.id.NodeID, nodeID)
	}
	if err != nil {
		return nil, fmt.Errorf("open data directory %s: %w", name, err)
	}
	return d, nil
}

// OpenDir takes the data directory at path for the node nodeID. A missing one
// is created, mode 0700, and given its incarnation; one that others may enter
// is closed to them. It fails at once if another process has the directory,
// or if the directory is another node's.
func OpenDir(path, nodeID string) (*Dir, error) {
	if !validID(nodeID) {
		return nil, fmt.Errorf("open data directory %s: node id %q is not 1 to %d of A-Z a-z 0-9 . _ -", path, nodeID, maxID)
	}
	if err := makePrivate(path); err != nil {
		return nil, fmt.Errorf("open data directory %s: %w", path, err)
	}
	lock, err := takeLock(path)
	if err != nil {
		return nil, err
	}
	id, err := loadIdentity(path, nodeID)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open data directory %s: %w", path, err), lock.Close())
	}
	return &Dir{path: path, keep: fileKeeper{path, lock}, id: id}, nil
}

// makePrivate sees to it that path is a directory that only its owner may enter.
func makePrivate(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeDirs(path); err != nil {
			return fmt.Errorf("it cannot be made: %w: name another with --data-dir", reason(err))
		}
		info, err = os.Stat(path)
	}
	switch {
	case err != nil:
		return fmt.Errorf("%w: name another with --data-dir", reason(err))
	case !info.IsDir():
		return errors.New("it is not a directory: name another with --data-dir")
	case info.Mode().Perm()&0o077 == 0:
		return nil
	}
	if err := os.Chmod(path, 0o700); err != nil {
		return fmt.Errorf("others may read it (mode %#o) and its mode cannot be changed (%w): make it this user's own, mode 0700, or name another with --data-dir", info.Mode().Perm(), reason(err))
	}
	return nil
}

// makeDirs makes path and the parents that are missing, all of them durable.
func makeDirs(path string) error {
	parent := filepath.Dir(path)
	if _, err := os.Stat(parent); errors.Is(err, fs.ErrNotExist) {
		if err := makeDirs(parent); err != nil {
			return err
		}
	}
	return durable.MakeDir(path)
}

// reason is err without the path, which the caller names.
func reason(err error) error {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return p.Err
	}
	return err
}

// takeLock locks the directory against other processes. The kernel lets go of
// the lock when this process ends, however it ends.
func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open data directory %s: it cannot be written: %w: give it to this user, or name another with --data-dir", path, reason(err))
	}
	held, err := flock(f)
	if held {
		err := fmt.Errorf("data directory %s is in use by %s: stop that one, or name another directory with --data-dir", path, holder(f))
		return nil, errors.Join(err, f.Close())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock data directory %s: %w", path, err), f.Close())
	}
	// Only told to whoever comes next: a lock without a pid is as good.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return f, nil
}

func holder(lock io.ReaderAt) string {
	b := make([]byte, 20)
	n, _ := lock.ReadAt(b, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil {
		return "another process"
	}
	return fmt.Sprintf("process %d", pid)
}

func loadIdentity(path, nodeID string) (identity, error) {
	file := filepath.Join(path, identityName)
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return newIdentity(path, nodeID)
	}
	if err != nil {
		return identity{}, fmt.Errorf("read %s: %w", identityName, reason(err))
	}
	id, err := parseIdentity(data)
	if err != nil {
		return identity{}, fmt.Errorf("%s is damaged (%w): restore that file, or take this node out of the cluster and start a new one, under a new id and in an empty directory, with --join", identityName, err)
	}
	if id.NodeID != nodeID {
		return identity{}, fmt.Errorf("it belongs to node %s, not to %s: start with --node-id %s, or name another directory with --data-dir", id.NodeID, nodeID, id.NodeID)
	}
	if info, err := os.Stat(file); err == nil && info.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(file, 0o600); err != nil {
			return identity{}, fmt.Errorf("make %s private: %w", identityName, reason(err))
		}
	}
	return id, nil
}

// newIdentity gives an empty directory its incarnation. A directory that holds
// data and has lost its identity must not get a new one: it would be taken for
// a node that never voted.
func newIdentity(path, nodeID string) (identity, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return identity{}, reason(err)
	}
	for _, e := range entries {
		if e.IsDir() && e.Name() != "lost+found" && !strings.HasPrefix(e.Name(), ".") {
			return identity{}, fmt.Errorf("it holds %s and no %s: name a directory of onced, or an empty one, with --data-dir", e.Name(), identityName)
		}
	}
	id, err := makeIdentity(nodeID)
	if err != nil {
		return identity{}, err
	}
	return id, save(fileKeeper{path: path}, id)
}

func makeIdentity(nodeID string) (identity, error) {
	id := identity{Version: identityVersion, NodeID: nodeID}
	if _, err := rand.Read(id.Incarnation[:]); err != nil {
		return identity{}, fmt.Errorf("make incarnation: %w", err)
	}
	return id, nil
}

func save(to Keeper, id identity) error {
	data, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return fmt.Errorf("encode identity: %w", err)
	}
	return to.Save(append(data, '\n'))
}

func parseIdentity(data []byte) (id identity, err error) {
	if err := decodeStrictly(data, &id); err != nil {
		return identity{}, err
	}
	switch {
	case id.Version != identityVersion:
		return identity{}, fmt.Errorf("it has version %d, this program knows %d", id.Version, identityVersion)
	case !validID(id.NodeID):
		return identity{}, fmt.Errorf("%q is no node id", id.NodeID)
	case id.Incarnation == tag{}:
		return identity{}, errors.New("it has no incarnation")
	case !validSeed(id.Seed) || id.Seed != "" && id.Joined:
		return identity{}, errors.New("its seed is none that it can have")
	case !id.formed() && (len(id.Members) > 0 || id.Index > 0 || id.Joined):
		return identity{}, errors.New("it has a roster and no cluster id")
	case !id.formed():
		return id, nil
	}
	if err := id.check(); err != nil {
		return identity{}, err
	}
	return id, id.knows(id.roster)
}

// knows reports an error unless r has this very directory as a member.
func (id identity) knows(r roster) error {
	m, ok := r.member(id.NodeID)
	if !ok {
		return fmt.Errorf("the roster does not name %s", id.NodeID)
	}
	if m.Incarnation != id.Incarnation {
		return fmt.Errorf("the roster knows %s by another data directory", id.NodeID)
	}
	return nil
}

// decodeStrictly decodes one JSON value without unknown members and with
// nothing after it.
func decodeStrictly(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("decode: bytes follow the end")
	}
	return nil
}

// Path is where the directory is.
func (d *Dir) Path() string { return d.path }

// NodeID is the node that the directory belongs to.
func (d *Dir) NodeID() string { return d.identity().NodeID }

// Incarnation is the 16 random bytes that were made with the directory.
func (d *Dir) Incarnation() []byte { return d.identity().Incarnation.bytes() }

// ClusterID is the cluster that the directory belongs to, nil if to none yet.
func (d *Dir) ClusterID() []byte { return d.identity().Cluster.bytes() }

// Members is the roster as it was stored last, ordered by node id; empty before
// formation or admission.
func (d *Dir) Members() []*fsm.Member { return d.identity().fsmMembers() }

// Joined reports whether the node was admitted to a running cluster. Such a
// node must not bootstrap raft: the leader brings it the configuration.
func (d *Dir) Joined() bool { return d.identity().Joined }

func (d *Dir) identity() identity {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.id
}

// Bind stores the roster of a new cluster. It refuses one that does not name
// this directory, and any change of what was stored before.
func (d *Dir) Bind(clusterID []byte, members []*fsm.Member) error {
	r, err := rosterOf(clusterID, 0, members)
	if err != nil {
		return fmt.Errorf("bind data directory %s: %w", d.path, err)
	}
	return d.bind(r, false)
}

// bind stores r: afterwards this directory belongs to r's cluster for good.
func (d *Dir) bind(r roster, joined bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.id.Cluster == r.Cluster {
		return nil
	}
	if d.id.formed() {
		return fmt.Errorf("bind data directory %s to cluster %s: it belongs to cluster %s", d.path, r.Cluster, d.id.Cluster)
	}
	if err := d.id.knows(r); err != nil {
		return fmt.Errorf("bind data directory %s: %w", d.path, err)
	}
	next := d.id
	next.roster, next.Joined = r, joined
	if err := save(d.keep, next); err != nil {
		return fmt.Errorf("bind data directory %s: %w", d.path, err)
	}
	d.id = next
	return nil
}

// follow keeps the stored roster in step with the member table r, so that after
// a crash, which may set the state machine back, the node still knows whom it
// has to reach. A roster without this directory is not kept: the node was
// removed, and its peers will tell it so.
func (d *Dir) follow(r roster) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.Cluster != d.id.Cluster || r.Index <= d.id.Index || slices.Equal(r.Members, d.id.Members) || d.id.knows(r) != nil {
		return nil
	}
	next := d.id
	next.roster = r
	if err := save(d.keep, next); err != nil {
		return fmt.Errorf("store member table in %s: %w", d.path, err)
	}
	d.id = next
	return nil
}

// Close lets another process have the directory.
func (d *Dir) Close() error {
	if err := d.keep.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("release data directory %s: %w", d.path, err)
	}
	return nil
}
