package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"catena/schemas"
	"catena/schemas/sources"
	"catena/sinks"
	"catena/sinks/clickhouse"
)

// The tests below drive the page in a headless Chromium, with the keyboard
// alone. All that the browser asks for, for the page or for itself, goes
// through a proxy that writes it down and lets nothing but the page through.

type browser struct {
	t       *testing.T
	ctx     context.Context
	page    string // address of the page
	mu      sync.Mutex
	asked   []string // of the page
	outside []string // of anybody else
}

// newBrowser starts Chromium in front of a page.
func newBrowser(t *testing.T, store *clickhouse.Store) *browser {
	t.Helper()
	path := os.Getenv("CATENA_TEST_CHROMIUM")
	if path == "" {
		t.Skip("needs a headless Chromium: run `make test-page`")
	}
	b := &browser{t: t}
	b.page = servePage(t, store).URL
	proxy := httptest.NewServer(http.HandlerFunc(b.proxy))
	t.Cleanup(proxy.Close)
	profile := t.TempDir()
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(path), chromedp.UserDataDir(profile), chromedp.NoSandbox, chromedp.ProxyServer(proxy.URL),
		chromedp.Flag("proxy-bypass-list", "<-loopback>"), // requests to this machine too
		chromedp.Flag("no-zygote", true), chromedp.Flag("in-process-gpu", true), chromedp.Flag("use-gl", "angle"), chromedp.Flag("use-angle", "swiftshader"),
		chromedp.Flag("enable-unsafe-swiftshader", true), chromedp.Flag("font-render-hinting", "none"), chromedp.WSURLReadTimeout(time.Minute),
		chromedp.Env("LD_LIBRARY_PATH="+filepath.Join(filepath.Dir(path), "lib"), "HOME="+profile, "FONTCONFIG_FILE="+fonts(t, filepath.Dir(path))), chromedp.WindowSize(1440, 900))
	allocator, stopAllocator := chromedp.NewExecAllocator(t.Context(), options...)
	ctx, stop := chromedp.NewContext(allocator)
	t.Cleanup(func() { stop(); stopAllocator() })
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(cancel)
	b.ctx = ctx
	b.do(chromedp.EmulateViewport(1440, 900))
	return b
}

// fonts names the browser's own fonts before those of the machine, so that the
// pictures look alike everywhere.
func fonts(t *testing.T, dir string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "fonts.conf")
	prefer := func(family, font string) string {
		return "<alias binding=\"strong\"><family>" + family + "</family><prefer><family>" + font + "</family></prefer></alias>"
	}
	write(t, name, "<?xml version=\"1.0\"?><!DOCTYPE fontconfig SYSTEM \"fonts.dtd\"><fontconfig><dir>"+filepath.Join(dir, "share", "fonts")+
		"</dir><dir>/usr/share/fonts</dir><cachedir>"+filepath.Join(t.TempDir(), "cache")+"</cachedir>"+
		prefer("system-ui", "Open Sans")+prefer("sans-serif", "Open Sans")+prefer("monospace", "DejaVu Sans Mono")+"</fontconfig>")
	return name
}

func servePage(t *testing.T, store *clickhouse.Store) *httptest.Server {
	t.Helper()
	set, err := sources.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(newPage(store, set, slog.New(slog.NewTextHandler(io.Discard, nil))))
	t.Cleanup(server.Close)
	return server
}

func (b *browser) proxy(w http.ResponseWriter, r *http.Request) {
	target := r.URL.Host
	if r.Method == http.MethodConnect {
		target = r.Host
	}
	b.mu.Lock()
	own := "http://"+target == b.page && r.Method != http.MethodConnect
	if own {
		b.asked = append(b.asked, r.URL.Path)
	} else {
		b.outside = append(b.outside, r.Method+" "+target+r.URL.Path)
	}
	b.mu.Unlock()
	if !own {
		http.Error(w, "nothing leaves this machine", http.StatusForbidden)
		return
	}
	r.RequestURI = ""
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer func() { _ = answer.Body.Close() }()
	for name, values := range answer.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.StatusCode)
	_, _ = io.Copy(w, answer.Body)
}

func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.t.Fatal(err)
	}
}

func (b *browser) open(path string) {
	b.t.Helper()
	b.do(chromedp.Navigate(b.page+path), chromedp.WaitReady(chromedp.CSS("main")))
}

// press sends keys, one after the other.
func (b *browser) press(keys ...string) {
	b.t.Helper()
	for _, k := range keys {
		b.do(chromedp.KeyEvent(k))
	}
}

// ask evaluates JavaScript that gives a text.
func (b *browser) ask(script string) string {
	b.t.Helper()
	out, err := chromedp.Run(b.ctx, chromedp.Evaluate[string]("String("+script+")"))
	if err != nil {
		b.t.Fatalf("%s: %v", script, err)
	}
	return out
}

// await waits until a script's text holds what is wanted.
func (b *browser) await(script, want string) {
	b.t.Helper()
	got := ""
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(30 * time.Millisecond) {
		// A page that is just being left has no answer.
		out, err := chromedp.Run(b.ctx, chromedp.Evaluate[string]("String("+script+")"))
		if err == nil && strings.Contains(out, want) {
			return
		}
		got = fmt.Sprint(out, err)
	}
	b.t.Fatalf("%s: waited for %q, the last was %q", script, want, got)
}

const (
	focused    = "document.activeElement.id || document.activeElement.tagName"
	focusedRow = "(document.activeElement.getAttribute('role') || '') + ' ' + document.activeElement.textContent.replace(/\\s+/g, ' ')"
	title      = "document.querySelector('main').textContent.replace(/\\s+/g, ' ')"
	aside      = "document.querySelector('aside').textContent.replace(/\\s+/g, ' ')"
)

// search looks something up with the keyboard.
func (b *browser) search(text, path, want string) {
	b.t.Helper()
	// As a keyboard does it: what keydown refuses is not typed. chromedp's own
	// key events type it all the same.
	for _, kind := range []input.DispatchKeyEventType{input.DispatchKeyEventTypeKeyDown, input.DispatchKeyEventTypeKeyUp} {
		key := input.DispatchKeyEventParams{Type: kind, Key: "/", Code: "Slash", WindowsVirtualKeyCode: 191}
		if kind == input.DispatchKeyEventTypeKeyDown {
			key.Text = "/"
		}
		if _, err := chromedp.Call(b.ctx, input.DispatchKeyEvent, key); err != nil {
			b.t.Fatal(err)
		}
	}
	b.await(focused, "q")
	b.await("document.getElementById('q').value + '.'", ".")
	b.press(text, kb.Enter)
	b.await("document.readyState + location.pathname", "complete"+path)
	b.await(title, want)
}

// find moves down the tree until the row with the focus holds a text.
func (b *browser) find(want string) {
	b.t.Helper()
	var seen []string
	for range 60 {
		row := b.ask(focusedRow)
		if strings.Contains(row, want) {
			return
		}
		seen = append(seen, row)
		b.press(kb.ArrowDown)
	}
	b.t.Fatalf("no row with %q was reached:\n%s", want, strings.Join(seen, "\n"))
}

// tabs presses Tab until the tree has the focus and returns where it went.
func (b *browser) tabs() (way []string) {
	b.t.Helper()
	for range 12 {
		b.press(kb.Tab)
		way = append(way, b.ask("document.activeElement.getAttribute('role') || "+focused))
		if way[len(way)-1] == "treeitem" {
			return way
		}
	}
	b.t.Fatalf("Tab does not reach the tree: %v", way)
	return nil
}

// onlyHere demands that nothing was asked of anybody but the page.
func (b *browser) onlyHere() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.outside) > 0 {
		b.t.Errorf("requests to others than the page: %v", b.outside)
	}
	if len(b.asked) == 0 || !slices.Contains(b.asked, "/static/page.css") {
		b.t.Errorf("the proxy has not seen the page's own requests: %v", b.asked)
	}
}

// picture takes a screenshot into docs/ with -update, else into the test's
// folder, and holds its size.
func (b *browser) picture(name string) {
	b.t.Helper()
	b.do(chromedp.Sleep(200 * time.Millisecond))
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.t.Fatal(err)
	}
	const most = 300_000
	if len(png) > most || len(png) < 20_000 {
		b.t.Errorf("%s has %d bytes, want 20,000 to %d", name, len(png), most)
	}
	dir := b.t.TempDir()
	if *update {
		dir = "../../docs"
	}
	if err := os.WriteFile(filepath.Join(dir, name), png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// TestBrowserStory1: from the search to the action that a person's agent
// caused, by keyboard.
func TestBrowserStory1(t *testing.T) {
	b := newBrowser(t, demoTables(t))
	b.open("/")
	b.await(title, "Findings")
	b.search("session:okta:102fixtureALICEdesk1", "/chain/", "Alice Moreau")
	if way := b.tabs(); len(way) > 8 {
		t.Errorf("it takes %d tabs to the tree: %v", len(way), way)
	}
	if got := b.ask(focusedRow); !strings.Contains(got, "Alice Moreau") {
		t.Errorf("the tree begins with %q", got)
	}
	b.find("s3:GetObject")
	b.press(kb.Enter)
	b.await(aside, "what proves each step")
	for _, want := range []string{"s3:GetObject", "proven", "Alice Moreau", "okta/1@6", "cloudtrail", "customers/4711.json"} {
		if got := b.ask(aside); !strings.Contains(got, want) {
			t.Errorf("the details lack %q: %s", want, got)
		}
	}
	b.picture("page-story1.png")

	// Left goes up to the tool call and folds it, right unfolds it.
	b.press(kb.ArrowLeft)
	b.await(focusedRow, "execute_tool read_customer")
	visible := "document.querySelectorAll('[role=treeitem]:not([hidden])').length"
	before := b.ask(visible)
	b.press(kb.ArrowLeft)
	b.await("document.activeElement.getAttribute('aria-expanded')", "false")
	if after := b.ask(visible); after == before {
		t.Errorf("folding hides no row: %s before, %s after", before, after)
	}
	b.press(kb.ArrowRight)
	b.await(visible, before)
	b.press(kb.End)
	b.await(focusedRow, "user.session.end")
	b.press(kb.Home)
	b.await(focusedRow, "Alice Moreau")
	b.press(kb.Escape)
	b.await(aside, "This chain")
	b.onlyHere()
}

// TestBrowserStory4: a resource leads to several chains; the list is walked
// with the arrows, and the stolen token's rows say why they are flagged.
func TestBrowserStory4(t *testing.T) {
	b := newBrowser(t, demoTables(t))
	b.open("/findings")
	b.await(title, "divergent")
	b.search("10.20.7.77", "/search", "Chains that")
	b.press(kb.ArrowDown)
	for range 5 {
		if strings.Contains(b.ask("document.activeElement.closest('tr').textContent"), "billing-api-7f") {
			break
		}
		b.press(kb.ArrowDown)
	}
	b.press(kb.Enter)
	b.await("document.readyState + location.pathname", "complete/chain/")
	b.await("document.querySelector('h1').textContent", "billing-api-7f")
	b.tabs()
	b.find("list secrets")
	b.press(kb.Enter)
	b.await(aside, "Candidates")
	for _, want := range []string{"divergent", "new_source_ip", "10.20.7.77", "f131610e-e067-4b0e-89b8-673640eb5114", "credential in the wrong hands"} {
		if got := b.ask(aside); !strings.Contains(got, want) {
			t.Errorf("the details lack %q: %s", want, got)
		}
	}
	b.picture("page-story4.png")
	b.onlyHere()
}

// TestBrowserWithoutScripts: everything can be read, and links do what the
// keyboard did.
func TestBrowserWithoutScripts(t *testing.T) {
	b := newBrowser(t, demoTables(t))
	if _, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		t.Fatal(err)
	}
	b.open("/search?q=session%3Aokta%3A102fixtureALICEdesk1")
	b.do(chromedp.Click(chromedp.Search(`//div[@role="treeitem"]//b[text()="s3:GetObject"]`)), chromedp.WaitVisible(chromedp.Search(`//aside//h3[contains(., "proves each step")]`)))
	text, err := chromedp.Run(b.ctx, chromedp.Text(chromedp.CSS("aside")))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text, "customers/4711.json") {
		t.Errorf("the details lack the resource: %s", text)
	}
	b.onlyHere()
}

// TestBrowserFollows: what is written while the page is open appears on it.
func TestBrowserFollows(t *testing.T) {
	store := openTest(t, database(t), "page_follows")
	if _, err := store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := newBrowser(t, store)
	b.open("/")
	b.await(title, "No actions yet")
	b.await("document.getElementById('live').textContent", "live")
	var batch sinks.Batch
	st := testStitcher(t, 1)
	if err := st.decode(storyRecords(t, func(s string) bool { return s == "5-policy" })); err != nil {
		t.Fatal(err)
	}
	st.correlate(&batch)
	batch.Progress = []schemas.Progress{{Topic: "okta", Offset: 1}}
	if err := store.Write(t.Context(), &batch); err != nil {
		t.Fatal(err)
	}
	b.await(title, "Grace Ito")
	b.await(title, "denied_but_done")
	b.onlyHere()
}

// TestBrowserHostileNames: what a log says is text, whatever it looks like.
func TestBrowserHostileNames(t *testing.T) {
	store := hostileTables(t)
	b := newBrowser(t, store)
	for _, path := range []string{"/", "/findings", "/search?q=" + url.QueryEscape(hostile[0]), "/chain/" + hostileChain.String(), "/chain/" + hostileChain.String() + "?row=e-" + schemas.MakeID("hostile", "0").String()} {
		b.open(path)
		if got := b.ask("window.hacked"); got != "undefined" {
			t.Errorf("%s: a script of the log ran", path)
		}
		if got := b.ask("document.querySelectorAll('main script, main img, main iframe, main [onerror], main [onload], main [style], main a[href^=javascript]').length"); got != "0" {
			t.Errorf("%s: %s elements of the log stand in the page", path, got)
		}
	}
	b.onlyHere()
}

// TestBrowserFile: explain's one file needs nothing else, and has the keyboard.
func TestBrowserFile(t *testing.T) {
	store := demoTables(t)
	b := newBrowser(t, store)
	file := filepath.Join(t.TempDir(), "chain.html")
	write(t, file, explainText(t, "session:okta:102fixtureALICEdesk1", explainFlags{limit: 10, format: "html"}))
	b.do(chromedp.Navigate("file://"+file), chromedp.WaitReady(chromedp.CSS("main")))
	b.tabs()
	b.find("dynamodb:Query")
	b.press(kb.Enter)
	b.await(aside, "what proves each step")
	if got := b.ask(aside); !strings.Contains(got, "dynamodb:Query") || !strings.Contains(got, "Missing") {
		t.Errorf("the details lack what they should say: %s", got)
	}
	b.press(kb.Escape)
	b.await(aside, "This chain")
	b.mu.Lock()
	defer b.mu.Unlock()
	if fmt.Sprint(b.outside, b.asked) != "[] []" {
		t.Errorf("the file asked for %v %v", b.outside, b.asked)
	}
}

// TestBrowserProxySees that something else is asked for, or the tests above
// would prove nothing; and the policy keeps a page from doing so.
func TestBrowserProxySees(t *testing.T) {
	b := newBrowser(t, demoTables(t))
	b.open("/")
	if got := b.ask("fetch('http://outside.example.com/x').then(() => 'went', () => 'refused')"); got != "[object Promise]" {
		t.Errorf("fetch gave %q", got)
	}
	b.ask("document.body.append(Object.assign(new Image(), {src: 'http://outside.example.com/y.png'}))")
	b.do(chromedp.Sleep(300 * time.Millisecond))
	b.onlyHere()
	_ = chromedp.Do(b.ctx, chromedp.Navigate("http://outside.example.com/z")) // refused by the proxy
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.outside) == 0 {
		t.Error("the proxy did not see a request to outside.example.com")
	}
}
