package cluster

// defaultGround is none: the stores of a data directory do not build here.
func defaultGround(Config) Ground { return nil }
