package api

import "github.com/onced/onced/wire"

// page is the JSON of a list: {"<name>":[…],"next":"…"}.
type page struct {
	json []byte
	last string
	any  bool
}

func newPage(name string) *page { return &page{json: []byte(`{"` + name + `":[`)} }

// add appends an element, which is found behind the element before by its id.
func (p *page) add(id string, element []byte) {
	if p.any {
		p.json = append(p.json, ',')
	}
	p.json = append(p.json, element...)
	p.last, p.any = id, true
}

// end returns the whole page. Where there are more, next is the last id.
func (p *page) end(more bool) []byte {
	p.json = append(p.json, ']')
	if more && p.any {
		p.json = append(p.json, `,"next":`...)
		p.json = wire.AppendString(p.json, p.last)
	}
	return append(p.json, '}')
}

// limit returns how many elements a page may have. It may have fewer.
func (x *exchange) limit() (int, error) {
	const defaultLimit, maxLimit = 100, 1000
	s := x.query.Get("limit")
	if s == "" {
		return defaultLimit, nil
	}
	n, err := asNumber("limit", s, 1, maxLimit)
	return int(n), err
}
