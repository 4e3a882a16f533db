//go:build linux

package node

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// clock shifts the wall clock of one process. Programs read the time by calling
// code that the kernel maps into each of them, the vDSO; of one process that code
// is replaced by some that asks the kernel and adds an offset. The kernel copies
// the page for that process alone. The offset is eight bytes that are written
// at once, so no reader sees half of one.
//
// It works on a stripped static binary, which knows nothing of it, on amd64.
type clock struct {
	memory string // of the process
	at     int64  // of the offset
}

// shifted is clock_gettime(2) for amd64, plus the offset in nanoseconds that
// stands behind it, where the clock is CLOCK_REALTIME. The time stays positive.
var shifted = []byte{
	0xb8, 0xe4, 0x00, 0x00, 0x00, // mov    eax, SYS_clock_gettime
	0x0f, 0x05, // syscall
	0x85, 0xc0, // test   eax, eax
	0x75, 0x29, // jnz    end
	0x85, 0xff, // test   edi, edi          CLOCK_REALTIME is 0
	0x75, 0x25, // jnz    end
	0x48, 0x69, 0x06, 0x00, 0xca, 0x9a, 0x3b, // imul   rax, [rsi], 1000000000
	0x48, 0x03, 0x46, 0x08, // add    rax, [rsi+8]
	0x48, 0x03, 0x05, 0x17, 0x00, 0x00, 0x00, // add    rax, [rip+23]     the offset
	0x31, 0xd2, // xor    edx, edx
	0xb9, 0x00, 0xca, 0x9a, 0x3b, // mov    ecx, 1000000000
	0x48, 0xf7, 0xf1, // div    rcx
	0x48, 0x89, 0x06, // mov    [rsi], rax
	0x48, 0x89, 0x56, 0x08, // mov    [rsi+8], rdx
	0x31, 0xc0, // xor    eax, eax
	0xc3,             // end: ret
	0x90, 0x90, 0x90, // to a multiple of 8
}

// openClock replaces the code in the process pid; its clock stays right for now.
func openClock(pid int) (*clock, error) {
	if runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("no clock can be shifted on %s", runtime.GOARCH)
	}
	c := &clock{memory: fmt.Sprintf("/proc/%d/mem", pid)}
	base, image, err := c.image(pid)
	if err != nil {
		return nil, err
	}
	entry, err := timeFunction(image)
	if err != nil {
		return nil, err
	}
	// The new code goes to the end of the image, which is not used.
	body := len(image) - len(shifted) - 8
	if body < 0 || bytes.Count(image[body:], []byte{0}) != len(image)-body {
		return nil, errors.New("the vDSO has no room")
	}
	if err := c.write(base+int64(body), shifted); err != nil {
		return nil, err
	}
	c.at = base + int64(len(image)-8)
	// The function becomes a jump; a thread that is further in goes on.
	jump := bytes.Clone(image[entry : entry+8])
	jump[0] = 0xe9
	binary.LittleEndian.PutUint32(jump[1:], uint32(int32(body-(entry+5))))
	return c, c.write(base+int64(entry), jump)
}

// image reads the vDSO of a process, and tells where it is.
func (c *clock) image(pid int) (base int64, image []byte, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, nil, fmt.Errorf("find the vDSO: %w", err)
	}
	var end int64
	for line := range strings.Lines(string(maps)) {
		if strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			if _, err := fmt.Sscanf(line, "%x-%x", &base, &end); err != nil {
				return 0, nil, fmt.Errorf("find the vDSO in %q: %w", line, err)
			}
		}
	}
	if base == 0 {
		return 0, nil, errors.New("the process has no vDSO")
	}
	f, err := os.Open(c.memory)
	if err != nil {
		return 0, nil, fmt.Errorf("read the vDSO: %w", err)
	}
	defer f.Close()
	image = make([]byte, end-base)
	if _, err := f.ReadAt(image, base); err != nil {
		return 0, nil, fmt.Errorf("read the vDSO: %w", err)
	}
	return base, image, nil
}

// timeFunction is where in the image the function is that tells the time.
func timeFunction(image []byte) (int, error) {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return 0, fmt.Errorf("read the vDSO: %w", err)
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return 0, fmt.Errorf("read the vDSO: %w", err)
	}
	for _, s := range symbols {
		if s.Name == "__vdso_clock_gettime" && s.Value+8 <= uint64(len(image)) {
			return int(s.Value), nil
		}
	}
	return 0, errors.New("the vDSO tells no time")
}

// set moves the clock to offset from the true time.
func (c *clock) set(offset time.Duration) error {
	return c.write(c.at, binary.LittleEndian.AppendUint64(nil, uint64(offset)))
}

func (c *clock) write(at int64, b []byte) error {
	f, err := os.OpenFile(c.memory, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("write the vDSO: %w", err)
	}
	_, err = f.WriteAt(b, at)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the vDSO: %w", err)
	}
	return nil
}
