package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"catena/schemas"
	"catena/schemas/sources"
	"catena/sinks/clickhouse"
)

// The page where people look: search, chains as a tree beside a timeline,
// findings; and /api/who for programs. Rendered here, with a little JavaScript
// that is not needed for reading. It only reads, each question has a time
// limit, and nothing is loaded from elsewhere: the content security policy
// allows this server's own style sheet and script alone. The texts of logs are
// written by whoever is being watched, so all of them are escaped.

//go:embed page
var pageFiles embed.FS

const (
	pageLimit  = 10 * time.Second // for all that one request asks of the database
	pageRows   = 600              // rows of a chain on one page
	pageChains = 40               // chains of a list
	pageLong   = 512              // longest text to search for
	pageAtOnce = 4                // requests that ask the database side by side; others wait, so that the pipeline gets its turn
)

const pagePolicy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// page is the handler.
type page struct {
	asker
	log       *slog.Logger
	templates *template.Template
	mux       *http.ServeMux
	turns     chan struct{} // of requests that ask the database
}

// newPage serves the page and its API from a database. Those whom the server
// lets in see everything that is in the tables.
func newPage(store *clickhouse.Store, set *sources.Set, log *slog.Logger) http.Handler {
	p := &page{asker: asker{store: store, sources: set}, log: log, templates: pageTemplates(), mux: http.NewServeMux(),
		turns: make(chan struct{}, pageAtOnce)}
	p.handle("GET /{$}", p.home)
	p.handle("GET /search", p.search)
	p.handle("GET /findings", p.allFindings)
	p.handle("GET /chain/{id}", p.chainPage)
	p.handle("GET /event/{id}", p.eventPage)
	p.handle("GET /api/who", p.apiWho)
	p.handle("GET /api/explain", p.apiExplain)
	p.handle("GET /api/pulse", p.apiPulse)
	p.mux.HandleFunc("GET /static/{name}", p.static)
	p.mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		p.fail(w, r, httpError{http.StatusNotFound, "there is no such page; start from /"})
	})
	return p
}

func (p *page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		p.fail(w, r, httpError{http.StatusMethodNotAllowed, "this page only reads: GET and HEAD"})
		return
	}
	if !hostFits(r) {
		p.fail(w, r, httpError{http.StatusMisdirectedRequest, "this address answers to localhost only, so that no web site can read it through a name of its own; a proxy in front has to send Host: localhost"})
		return
	}
	p.mux.ServeHTTP(w, r)
}

// hostFits refuses names other than localhost on the loopback device: a web
// site could give its own name the address 127.0.0.1 and have a visitor's
// browser read the page for it.
func hostFits(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if !ok || !local.IP.IsLoopback() {
		return true
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// httpError is an error with the answer's status. Its text is for people.
type httpError struct {
	status int
	text   string
}

func (e httpError) Error() string { return e.text }

// handle runs what answers one sort of question, with a time limit.
func (p *page) handle(pattern string, answer func(ctx context.Context, w http.ResponseWriter, r *http.Request) error) {
	p.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := clickhouse.Bounded(r.Context(), pageLimit)
		defer cancel()
		select {
		case p.turns <- struct{}{}:
			defer func() { <-p.turns }()
		case <-ctx.Done():
			p.fail(w, r, httpError{http.StatusServiceUnavailable, "too many are asking at once; try again"})
			return
		}
		err := answer(ctx, w, r)
		switch {
		case err == nil:
		case r.Context().Err() != nil: // nobody waits for the answer
		case errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil || strings.Contains(err.Error(), "TIMEOUT_EXCEEDED"):
			p.fail(w, r, httpError{http.StatusGatewayTimeout, fmt.Sprintf("the database did not answer within %v; search for an id rather than a name, or ask it in SQL", pageLimit)})
		default:
			p.fail(w, r, err)
		}
	})
}

// fail answers with an error, as JSON to programs.
func (p *page) fail(w http.ResponseWriter, r *http.Request, err error) {
	var e httpError
	if !errors.As(err, &e) {
		p.log.Warn("the page could not answer", "path", r.URL.Path, "error", err)
		e = httpError{http.StatusBadGateway, "the database could not answer: " + err.Error()}
	}
	if strings.HasPrefix(r.URL.Path, "/api/") {
		p.json(w, e.status, map[string]string{"error": e.text})
		return
	}
	_ = p.render(w, r, e.status, "error", http.StatusText(e.status), map[string]any{"Text": safe(e.text), "Status": e.status})
}

func (p *page) json(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}

// frame is what stands around each page.
type frame struct {
	Title, Query, Name string
	Live               bool
	Body               any
}

// render writes a page, or for the script its middle alone.
func (p *page) render(w http.ResponseWriter, r *http.Request, status int, name, title string, body any) error {
	f := frame{Title: title, Query: safe(r.URL.Query().Get("q")), Name: name, Body: body, Live: status == http.StatusOK}
	tmpl := "frame"
	switch r.URL.Query().Get("part") {
	case "main":
		tmpl = "main"
	case "detail":
		tmpl = "detail-part"
	}
	var b bytes.Buffer
	if err := p.templates.ExecuteTemplate(&b, tmpl, f); err != nil {
		return fmt.Errorf("template %s: %w", name, err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the client may be gone
	return nil
}

// chainLine is a chain in a list.
type chainLine struct {
	Href, Root, RootKind, RootID string
	Weakest, MFA                 string
	Actions, Matched             int
	Flags                        []flagView
	Day, First, Last, Span       string
	Sources                      string
}

func lineOf(s clickhouse.ChainSummary) chainLine {
	return chainLine{Href: "/chain/" + s.Chain.String(), Root: shorten(orElse(s.RootName, orElse(s.Root.Value, "nobody known")), 60), RootKind: s.Root.Kind.String(), RootID: shorten(s.Root.ID(), 80),
		Weakest: s.Worst.String(), MFA: s.MFA.String(), Actions: s.Actions, Flags: flagViews(s.Flags), Day: day(s.LastNanos), First: clock(s.FirstNanos)[:8], Last: clock(s.LastNanos)[:8],
		Span: spokenSpan(time.Duration(s.LastNanos - s.FirstNanos).Round(time.Second)), Sources: strings.Join(s.Sources, ", ")}
}

// homeView is the first page.
type homeView struct {
	Records, Actions int64
	Newest, Final    string
	Window           string
	Grades           []countView
	Findings         []findingView
	MoreFindings     bool
	Chains           []chainLine
	Empty            bool
}

// windows are how far back the first page looks: as far as it needs to, to be
// full, so that a busy system is asked about little.
var windows = []struct {
	d    time.Duration
	name string
}{{15 * time.Minute, "15 min"}, {24 * time.Hour, "24 h"}, {30 * 24 * time.Hour, "30 days"}}

func (p *page) home(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	pulse, err := p.store.Pulse(ctx)
	if err != nil {
		return err
	}
	v := homeView{Records: pulse.Records, Empty: pulse.LastEventMicros <= 0, Newest: stamp(pulse.LastEventMicros * 1000)}
	if pulse.FinalNanos > 0 {
		v.Final = stamp(pulse.FinalNanos)
	}
	if v.Empty {
		return p.render(w, r, http.StatusOK, "home", "catena", v)
	}
	var since int64
	for _, window := range windows {
		since = pulse.LastEventMicros*1000 - int64(window.d)
		found, err := p.store.Recent(ctx, since, pageChains)
		if err != nil {
			return err
		}
		v.Window, v.Chains = window.name, v.Chains[:0]
		for _, s := range found {
			v.Chains = append(v.Chains, lineOf(s))
		}
		if len(found) >= pageChains/2 {
			break
		}
	}
	grades, err := p.store.Grades(ctx, since)
	if err != nil {
		return err
	}
	for _, g := range grades {
		v.Actions += int64(g.Actions)
	}
	v.Grades = viewGrades(grades)
	const most = 8
	found, err := p.store.Findings(ctx, schemas.ID{}, since, most+1)
	if err != nil {
		return err
	}
	v.MoreFindings = len(found) > most
	for _, f := range found[:min(len(found), most)] {
		v.Findings = append(v.Findings, viewFinding(f))
	}
	return p.render(w, r, http.StatusOK, "home", "catena", v)
}

func (p *page) allFindings(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	pulse, err := p.store.Pulse(ctx)
	if err != nil {
		return err
	}
	const days, most = 30, 500
	found, err := p.store.Findings(ctx, schemas.ID{}, pulse.LastEventMicros*1000-int64(days*24*time.Hour), most)
	if err != nil {
		return err
	}
	var v []findingView
	for _, f := range found {
		v = append(v, viewFinding(f))
	}
	return p.render(w, r, http.StatusOK, "findings", "Findings", map[string]any{"List": v, "Cut": len(found) == most, "Days": days})
}

func (p *page) search(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	what := strings.TrimSpace(r.URL.Query().Get("q"))
	switch {
	case what == "":
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return nil
	case len(what) > pageLong:
		return httpError{http.StatusBadRequest, fmt.Sprintf("the text is longer than %d bytes: search for an id, a name, an address or a resource", pageLong)}
	}
	a, err := p.event(ctx, strings.ToLower(what))
	if err != nil {
		return err
	}
	if a != nil {
		http.Redirect(w, r, "/event/"+a.ID.String(), http.StatusSeeOther)
		return nil
	}
	found, err := p.find(ctx, what, pageChains)
	if err != nil {
		return err
	}
	if len(found) == 1 {
		target := "/event/" + found[0].Event.String()
		if !found[0].Chain.IsZero() {
			target = "/chain/" + found[0].Chain.String() + "?q=" + queryEscape(what)
		}
		http.Redirect(w, r, target, http.StatusSeeOther)
		return nil
	}
	v := map[string]any{"What": shorten(what, 120)}
	var lines []chainLine
	for _, m := range found {
		l := chainLine{Href: "/event/" + m.Event.String(), Root: shorten(orElse(m.RootName, orElse(m.Root.Value, "nobody known")), 60), RootKind: m.Root.Kind.String(), RootID: "belongs to no chain",
			Matched: m.Actions, Actions: m.Actions, Day: day(m.LastNanos), Last: clock(m.LastNanos)[:8]}
		if m.Summary != nil {
			l = lineOf(*m.Summary)
			l.Matched = m.Actions
		}
		lines = append(lines, l)
	}
	v["Chains"], v["Cut"] = lines, len(found) == pageChains
	return p.render(w, r, http.StatusOK, "search", "Search", v)
}

// chainPage shows a chain, and beside it one row's details or an overview.
func (p *page) chainPage(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	id, err := schemas.ParseID(strings.ToLower(r.PathValue("id")))
	if err != nil {
		return httpError{http.StatusBadRequest, "the chain's id is a UUID, such as 01234567-89ab-8cde-8f01-23456789abcd"}
	}
	row := r.URL.Query().Get("row")
	c, err := p.chain(ctx, id, pageRows, r.URL.Query().Get("all") == "1")
	if err != nil {
		return err
	}
	if len(c.rows) == 0 {
		return httpError{http.StatusNotFound, "there is no chain " + id.String() + ": when rows improve they may move to another; search for what it was about"}
	}
	v := viewChain(c, linker{}, row)
	if v.Detail, err = p.detail(ctx, c, v, row); err != nil {
		return err
	}
	return p.render(w, r, http.StatusOK, "chain", v.Root, v)
}

// detail is what stands beside the tree for a row; nil if there is no such.
func (p *page) detail(ctx context.Context, c *chainStory, v *chainView, row string) (any, error) {
	for _, r := range v.Rows {
		if r.ID == row && r.hop != nil {
			return viewKey(r, c, v.Link), nil
		}
	}
	for _, a := range c.rows { // also those that are folded
		if "e-"+a.ID.String() == row {
			s, err := p.action(ctx, a)
			if err != nil {
				return nil, err
			}
			return viewAction(s, v.Link), nil
		}
	}
	return nil, nil
}

// eventPage leads to an event in its chain; one without a chain stands alone.
func (p *page) eventPage(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	a, err := p.event(ctx, strings.ToLower(r.PathValue("id")))
	if err != nil {
		return err
	}
	if a == nil {
		return httpError{http.StatusNotFound, "there is no row of this event: it may have made bindings only, as plain spans do, or have been cleared away"}
	}
	if !a.ChainID.IsZero() {
		http.Redirect(w, r, "/chain/"+a.ChainID.String()+"?row=e-"+a.ID.String(), http.StatusSeeOther)
		return nil
	}
	s, err := p.action(ctx, a)
	if err != nil {
		return err
	}
	return p.render(w, r, http.StatusOK, "event", safe(a.Event.Action), map[string]any{"Detail": viewAction(s, linker{})})
}

func (p *page) apiWho(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	k, err := schemas.ParseKey(r.URL.Query().Get("key"))
	if err != nil || k.IsZero() || len(k.Value) > pageLong {
		return httpError{http.StatusBadRequest, "want ?key=kind:namespace:value, such as token:aws.access_key:ASIA… or session:okta:102…"}
	}
	answer, err := p.who(ctx, k)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if !answer.Known {
		status = http.StatusNotFound
	}
	p.json(w, status, answer)
	return nil
}

func (p *page) apiExplain(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	what := strings.TrimSpace(r.URL.Query().Get("what"))
	if what == "" || len(what) > pageLong {
		return httpError{http.StatusBadRequest, "want ?what= with an event, a chain, a key, a principal, a resource or an address"}
	}
	e, err := p.explain(ctx, what, explainFlags{limit: 10, all: r.URL.Query().Get("all") == "1", each: r.URL.Query().Get("each") == "1"})
	if err != nil {
		var nothing nothingError
		if errors.As(err, &nothing) {
			return httpError{http.StatusNotFound, err.Error()}
		}
		return err
	}
	out, err := e.json()
	if err != nil {
		return err
	}
	p.json(w, http.StatusOK, out)
	return nil
}

func (p *page) apiPulse(ctx context.Context, w http.ResponseWriter, _ *http.Request) error {
	pulse, err := p.store.Pulse(ctx)
	if err != nil {
		return err
	}
	out := map[string]any{"updated": pulse.Updated, "records": pulse.Records, "final_before": "", "newest": ""}
	if pulse.FinalNanos > 0 {
		out["final_before"] = rfc(pulse.FinalNanos)
	}
	if pulse.LastEventMicros > 0 {
		out["newest"] = rfc(pulse.LastEventMicros * 1000)
	}
	p.json(w, http.StatusOK, out)
	return nil
}

// static serves the style sheet and the script.
func (p *page) static(w http.ResponseWriter, r *http.Request) {
	types := map[string]string{"page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}
	kind, ok := types[r.PathValue("name")]
	text, err := pageFiles.ReadFile("page/" + r.PathValue("name"))
	if !ok || err != nil {
		p.fail(w, r, httpError{http.StatusNotFound, "there is no such file"})
		return
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "no-cache")
	sum := sha256.Sum256(text)
	w.Header().Set("ETag", strconv.Quote(base64.RawURLEncoding.EncodeToString(sum[:12])))
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(text))
}

// pageTemplates parses them; they are part of the program, so a fault in them
// is one of the program's.
func pageTemplates() *template.Template {
	return template.Must(template.New("page").Funcs(template.FuncMap{"action": asAction, "key": asKey, "count": count}).ParseFS(pageFiles, "page/*.html"))
}

func asAction(v any) *actionView { a, _ := v.(*actionView); return a }
func asKey(v any) *keyView       { k, _ := v.(*keyView); return k }

// fileView is explain's HTML: one file that needs nothing else.
type fileView struct {
	What, Made    string
	Style         template.CSS
	Script        template.JS
	Policy        string
	Chains        []fileChain
	Lone          []*actionView
	Choices       []chainLine
	FinalTo       string
	NoneWasChosen bool
}

// fileChain is a chain with the details of all that is drawn.
type fileChain struct {
	*chainView
	Details []any
	asked   bool // the event that was asked for is among them
}

// writeHTML draws the answer with the page's templates into one file.
func (e *explanation) writeHTML(w io.Writer) error {
	css, err := pageFiles.ReadFile("page/page.css")
	if err != nil {
		return err
	}
	js, err := pageFiles.ReadFile("page/page.js")
	if err != nil {
		return err
	}
	// Both are our own files, and so may stand as they are.
	v := fileView{What: shorten(e.what, 120), Style: template.CSS(css), Script: template.JS(js), NoneWasChosen: e.choose,
		Policy: fmt.Sprintf("default-src 'none'; style-src %s; script-src %s; img-src data:; base-uri 'none'; form-action 'none'", hashOf(css), hashOf(js))}
	if e.asOf > 0 {
		v.FinalTo = stamp(e.asOf)
	}
	link := linker{file: true}
	drawn := false
	for _, c := range e.chains {
		f := fileChain{}
		f.fill(c, link, e.action)
		drawn = drawn || f.asked
		v.Chains = append(v.Chains, f)
	}
	if e.action != nil && !drawn { // it is told by the line of another, or belongs to no chain
		v.Lone = append(v.Lone, viewAction(e.action, link))
	}
	for _, s := range e.lone {
		v.Lone = append(v.Lone, viewAction(s, link))
	}
	for _, m := range e.matches {
		if e.choose && m.Summary != nil {
			l := lineOf(*m.Summary)
			l.Href, l.Matched = "", m.Actions
			l.RootID += "  chain " + m.Chain.String()
			v.Choices = append(v.Choices, l)
		}
	}
	return pageTemplates().ExecuteTemplate(w, "file", v)
}

func (f *fileChain) fill(c *chainStory, link linker, asked *actionStory) {
	selected := ""
	if asked != nil {
		selected = "e-" + asked.ID.String()
	}
	f.chainView = viewChain(c, link, selected)
	for _, r := range f.Rows {
		switch {
		case r.hop != nil:
			f.Details = append(f.Details, viewKey(r, c, link))
		case r.action != nil:
			s := &actionStory{Action: r.action, proofs: c.proofs}
			if r.ID == selected {
				s, f.asked = asked, true
			}
			a := viewAction(s, link)
			a.Row = r
			f.Details = append(f.Details, a)
		}
	}
}

func hashOf(text []byte) string {
	sum := sha256.Sum256(text)
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

func queryEscape(s string) string { return url.QueryEscape(s) }

func searchHref(what string) string { return "/search?q=" + queryEscape(what) }
