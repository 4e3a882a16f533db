package state

// defaultDisk is none: Pebble does not build here.
func defaultDisk() Disk { return nil }
