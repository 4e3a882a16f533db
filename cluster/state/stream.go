package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"github.com/cespare/xxhash/v2"

	"github.com/onced/onced/cluster/durable"
)

// A snapshot travels as the files of a store:
//
//	"onced state 1\n"
//	count   4 bytes, big endian: how many files follow
//	a file  1 byte length of its name, name, 8 bytes size, content
//	digest  xxhash64 of all before it, 8 bytes
const (
	streamMagic  = "onced state 1\n"
	streamDigest = 8
	maxFiles     = 1 << 20
	maxFileSize  = 1 << 40
)

var errStream = errors.New("snapshot stream is damaged")

// sending is the stream of the files in dir, which it removes when closed.
type sending struct {
	dir    string
	size   int64
	body   io.Reader
	digest hash.Hash64
	// tail is what is left of the digest, once the body has been read.
	tail  *bytes.Reader
	files []*sentFile
}

func newSending(dir string) (*sending, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	s := &sending{dir: dir, digest: xxhash.New()}
	head := binary.BigEndian.AppendUint32([]byte(streamMagic), uint32(len(entries)))
	s.size = int64(len(head)) + streamDigest
	parts := []io.Reader{bytes.NewReader(head)}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		head := append([]byte{byte(len(e.Name()))}, e.Name()...)
		head = binary.BigEndian.AppendUint64(head, uint64(info.Size()))
		f := &sentFile{path: filepath.Join(dir, e.Name()), left: info.Size()}
		s.size += int64(len(head)) + info.Size()
		s.files = append(s.files, f)
		parts = append(parts, bytes.NewReader(head), f)
	}
	s.body = io.TeeReader(io.MultiReader(parts...), s.digest)
	return s, nil
}

// Read implements io.Reader.
func (s *sending) Read(p []byte) (int, error) {
	if s.tail == nil {
		n, err := s.body.Read(p)
		if err != io.EOF {
			return n, err
		}
		s.tail = bytes.NewReader(s.digest.Sum(nil))
		if n > 0 {
			return n, nil
		}
	}
	return s.tail.Read(p)
}

// Close implements io.Closer.
func (s *sending) Close() error {
	var err error
	for _, f := range s.files {
		err = errors.Join(err, f.close())
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

// sentFile reads a file of known size. It is open only while it is read.
type sentFile struct {
	path string
	left int64
	file *os.File
}

// Read implements io.Reader.
func (f *sentFile) Read(p []byte) (n int, err error) {
	if f.left == 0 {
		if err := f.close(); err != nil {
			return 0, err
		}
		return 0, io.EOF
	}
	if f.file == nil {
		if f.file, err = os.Open(f.path); err != nil {
			return 0, err
		}
	}
	n, err = f.file.Read(p[:min(int64(len(p)), f.left)])
	f.left -= int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (f *sentFile) close() error {
	if f.file == nil {
		return nil
	}
	file := f.file
	f.file = nil
	return file.Close()
}

// unpack makes dir and puts the files of the stream r into it, all of it
// synced when it returns. Nothing in the stream is trusted before its digest
// has been checked, except that files of its names, in dir, are written.
func unpack(r io.Reader, dir string) error {
	if err := durable.MakeDir(dir); err != nil {
		return err
	}
	digest := xxhash.New()
	body := io.TeeReader(r, digest)
	head := make([]byte, len(streamMagic)+4)
	if _, err := io.ReadFull(body, head); err != nil {
		return cutShort(err)
	}
	if string(head[:len(streamMagic)]) != streamMagic {
		return fmt.Errorf("%w: it does not begin as one of this version", errStream)
	}
	count := binary.BigEndian.Uint32(head[len(streamMagic):])
	if count > maxFiles {
		return fmt.Errorf("%w: %d files", errStream, count)
	}
	for range count {
		if err := unpackFile(body, dir); err != nil {
			return err
		}
	}
	want := digest.Sum(nil)
	got := make([]byte, streamDigest)
	if _, err := io.ReadFull(r, got); err != nil {
		return cutShort(err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%w: it does not match its digest", errStream)
	}
	if n, err := io.Copy(io.Discard, r); err != nil || n > 0 {
		return errors.Join(fmt.Errorf("%w: %d bytes behind its end", errStream, n), err)
	}
	return durable.SyncDir(dir)
}

func unpackFile(r io.Reader, dir string) error {
	var length [1]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return cutShort(err)
	}
	head := make([]byte, int(length[0])+8)
	if _, err := io.ReadFull(r, head); err != nil {
		return cutShort(err)
	}
	name, size := string(head[:length[0]]), binary.BigEndian.Uint64(head[length[0]:])
	if !validName(name) {
		return fmt.Errorf("%w: file name %q", errStream, name)
	}
	if size > maxFileSize {
		return fmt.Errorf("%w: %d bytes in file %s", errStream, size, name)
	}
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err = io.CopyN(f, r, int64(size)); err == nil {
		err = f.Sync()
	} else {
		err = cutShort(err)
	}
	return errors.Join(err, f.Close())
}

// validName tells whether name can be that of a file in a store: nothing that
// leads out of its directory.
func validName(name string) bool {
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '-', c == '_':
		default:
			return false
		}
	}
	return name != "" && name[0] != '.'
}

func cutShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it is cut short", errStream)
	}
	return err
}
