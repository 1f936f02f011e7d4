// Command grafana writes the dashboards of deploy/grafana/dashboards. What
// they ask is told here in a few lines a panel; the JSON that Grafana wants is
// made from it, so that all panels look alike and no id is given twice.
//
//	go run ./deploy/grafana
//
// Grafana knows a dashboard by its uid and a panel by its id: neither may ever
// change or be used again, since links and alerts name them.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
)

// dashboard is one page. Its panels are placed from left to right and wrap.
type dashboard struct {
	uid, title, about string
	variables         []variable
	panels            []panel
}

// variable is a choice at the top of a page. Exactly one of sql, values and
// constant is set. A query gives one column, or the value and what to show.
type variable struct {
	name, label string
	sql         string
	values      []string
	constant    string
	multi       bool // several, and all; otherwise exactly one
	all         bool // one or all
}

// panel is one question. Either sql or promql is set.
type panel struct {
	id           int
	title, about string
	kind         string // row, stat, timeseries, table, piechart
	w, h         int    // of 24 columns; a unit of height is 30 pixels
	sql          string
	promql       []query
	series       string // timeseries: the column that names the series, if there is one
	unit         string
	steps        []step            // thresholds, lowest first
	shares       []string          // table: columns drawn as bars from 0 to 1
	units        map[string]string // table: of single columns
	lines        bool              // timeseries: lines and not stacked bars
}

type query struct{ expr, legend string }

// step is a threshold: from this value on, this colour.
type step struct {
	from  float64
	color string
}

const (
	clickhouseUID  = "catena-clickhouse"
	clickhouseType = "grafana-clickhouse-datasource"
	prometheusUID  = "catena-prometheus"

	// pluginVersion is the oldest plugin whose query model this is. The plugin
	// takes queries without a version, or below 4, for those of version 3 and
	// rewrites them.
	pluginVersion = "4.15.0"
	schemaVersion = 39
)

// object is JSON, whose keys json.Marshal sorts: the same files every time.
type object = map[string]any

func main() {
	for name, text := range files() {
		path := filepath.Join("deploy", "grafana", "dashboards", name)
		if err := os.WriteFile(path, text, 0o644); err != nil { // readable: Grafana runs as another user
			fmt.Fprintln(os.Stderr, "grafana: run it from the root of the repository:", err)
			os.Exit(1) //nolint:forbidigo // this is main
		}
	}
}

// files are the dashboards by the name of their file.
func files() map[string][]byte {
	out := map[string][]byte{}
	for _, d := range dashboards() {
		var text bytes.Buffer
		enc := json.NewEncoder(&text)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(d.json()); err != nil {
			panic(err) // impossible: it is made of strings, numbers and maps
		}
		out[d.uid+".json"] = text.Bytes()
	}
	return out
}

func (d *dashboard) json() object {
	var variables, panels []any
	for i := range d.variables {
		variables = append(variables, d.variables[i].json())
	}
	x, y, tallest := 0, 0, 0
	for i := range d.panels {
		p := &d.panels[i]
		if x+p.w > 24 {
			x, y, tallest = 0, y+tallest, 0
		}
		panels = append(panels, p.json(x, y))
		x, tallest = x+p.w, max(tallest, p.h)
	}
	return object{
		"uid": d.uid, "title": "catena / " + d.title, "description": d.about, "tags": []string{"catena"},
		"schemaVersion": schemaVersion, "version": 1, "id": nil, "editable": true, "graphTooltip": 1, "refresh": "5m", "timezone": "utc",
		"time": object{"from": "now-24h", "to": "now"}, "timepicker": object{}, "fiscalYearStartMonth": 0, "liveNow": false,
		"annotations": object{"list": []any{}},
		"links": []any{object{"type": "dashboards", "tags": []string{"catena"}, "title": "catena", "asDropdown": false, "icon": "external link",
			"includeVars": false, "keepTime": true, "targetBlank": false, "tooltip": "", "url": ""}},
		"templating": object{"list": variables}, "panels": panels,
	}
}

func (v *variable) json() object {
	o := object{"name": v.name, "label": v.label, "multi": v.multi, "includeAll": v.multi || v.all, "hide": 0, "skipUrlSync": false, "options": []any{}}
	if v.multi || v.all {
		o["current"] = object{"selected": true, "text": "All", "value": "$__all"}
		if v.multi {
			o["current"] = object{"selected": true, "text": []string{"All"}, "value": []string{"$__all"}}
		}
	}
	switch {
	case v.sql != "":
		o["type"], o["datasource"], o["refresh"], o["sort"], o["regex"] = "query", source(clickhouseUID), 2, 0, ""
		o["definition"] = v.sql
		o["query"] = object{"refId": "var", "queryType": "sql", "editorType": "sql", "rawSql": v.sql, "pluginVersion": pluginVersion}
	case v.constant != "":
		o["type"], o["query"], o["hide"] = "constant", v.constant, 2
		o["current"] = object{"selected": false, "text": v.constant, "value": v.constant}
		o["options"] = []any{object{"selected": true, "text": v.constant, "value": v.constant}}
	default:
		options := []any{object{"selected": true, "text": "All", "value": "$__all"}}
		text := ""
		for i, value := range v.values {
			options = append(options, object{"selected": false, "text": value, "value": value})
			if i > 0 {
				text += ","
			}
			text += value
		}
		o["type"], o["query"], o["options"] = "custom", text, options
	}
	return o
}

func source(uid string) object {
	if uid == prometheusUID {
		return object{"type": "prometheus", "uid": uid}
	}
	return object{"type": clickhouseType, "uid": uid}
}

func (p *panel) json(x, y int) object {
	o := object{"id": p.id, "title": p.title, "type": p.kind, "gridPos": object{"x": x, "y": y, "w": p.w, "h": p.h}}
	if p.kind == "row" {
		o["collapsed"], o["panels"] = false, []any{}
		return o
	}
	o["description"], o["options"], o["fieldConfig"] = p.about, p.options(), p.fields()
	uid := clickhouseUID
	if p.sql == "" {
		uid = prometheusUID
	}
	o["datasource"], o["targets"] = source(uid), p.targets(uid)
	return o
}

func (p *panel) targets(uid string) (targets []any) {
	for i, q := range p.promql {
		targets = append(targets, object{"refId": string(rune('A' + i)), "datasource": source(uid), "editorMode": "code",
			"expr": q.expr, "legendFormat": q.legend, "range": true, "instant": false})
	}
	if p.sql == "" {
		return targets
	}
	format, word := 1, "table"
	if p.kind == "timeseries" {
		format, word = 0, "timeseries"
	}
	return []any{object{"refId": "A", "datasource": source(uid), "editorType": "sql", "queryType": word, "format": format, "rawSql": p.sql,
		"pluginVersion": pluginVersion, "meta": object{}}}
}

func (p *panel) options() object {
	legend := object{"displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": []string{}}
	switch p.kind {
	case "stat":
		return object{"colorMode": "value", "graphMode": "none", "justifyMode": "auto", "orientation": "auto", "textMode": "auto", "wideLayout": true,
			"showPercentChange": false, "percentChangeColorMode": "standard",
			"reduceOptions": object{"calcs": []string{"lastNotNull"}, "fields": "", "values": false}}
	case "timeseries":
		return object{"legend": legend, "tooltip": object{"mode": "multi", "sort": "desc"}}
	case "piechart":
		legend["values"] = []string{"value"}
		return object{"legend": legend, "orientation": "auto", "pieType": "donut", "displayLabels": []string{"name", "value"}, "tooltip": object{"mode": "single", "sort": "none"},
			"reduceOptions": object{"calcs": []string{"lastNotNull"}, "fields": "", "values": true}}
	}
	return object{"frameIndex": 0, "showHeader": true, "cellHeight": "sm", "footer": object{"show": false, "reducer": []string{"sum"}, "countRows": false, "fields": ""}}
}

func (p *panel) fields() object {
	steps := []any{object{"color": "text", "value": nil}}
	for i, s := range p.steps {
		if i == 0 {
			steps[0] = object{"color": s.color, "value": nil} // the lowest has no bound
			continue
		}
		steps = append(steps, object{"color": s.color, "value": s.from})
	}
	defaults := object{"mappings": []any{}, "thresholds": object{"mode": "absolute", "steps": steps}, "color": object{"mode": "thresholds"}}
	if p.unit != "" {
		defaults["unit"] = p.unit
	}
	if p.unit == "percentunit" {
		defaults["min"], defaults["max"] = 0, 1
	}
	overrides := []any{}
	switch p.kind {
	case "timeseries":
		defaults["color"] = object{"mode": "palette-classic"}
		custom := object{"drawStyle": "bars", "fillOpacity": 70, "lineWidth": 1, "showPoints": "never", "stacking": object{"mode": "normal", "group": "A"},
			"axisPlacement": "auto", "spanNulls": false, "thresholdsStyle": object{"mode": "off"}}
		if p.lines {
			custom["drawStyle"], custom["fillOpacity"], custom["stacking"] = "line", 10, object{"mode": "none", "group": "A"}
			custom["showPoints"] = "auto"
		}
		defaults["custom"] = custom
		if p.series != "" {
			defaults["displayName"] = "${__field.labels." + p.series + "}"
		}
		if p.series == "grade" {
			overrides = gradeColours()
		}
	case "piechart":
		defaults["color"] = object{"mode": "palette-classic"}
	case "table":
		defaults["custom"] = object{"align": "auto", "cellOptions": object{"type": "auto"}, "filterable": true, "inspect": true}
		overrides = p.columns()
	}
	return object{"defaults": defaults, "overrides": overrides}
}

// colours of the words that mean the same everywhere.
var colours = []struct{ word, color string }{
	{"proven", "green"}, {"stated", "blue"}, {"inferred", "yellow"}, {"ambiguous", "orange"}, {"unattributed", "red"},
	{"high", "red"}, {"medium", "orange"}, {"low", "yellow"}, {"allow", "green"}, {"deny", "red"},
}

func gradeColours() (overrides []any) {
	for _, c := range colours[:5] {
		overrides = append(overrides, override(c.word, "color", object{"mode": "fixed", "fixedColor": c.color}))
	}
	return overrides
}

// override sets one property of the field of a name.
func override(field, property string, value any) object {
	return object{"matcher": object{"id": "byName", "options": field}, "properties": []any{object{"id": property, "value": value}}}
}

// columns are the links, colours and bars of a table's columns; a column has
// the same ones in every table.
func (p *panel) columns() []any {
	mapping := object{}
	for i, c := range colours {
		mapping[c.word] = object{"color": c.color, "index": i}
	}
	words := []any{object{"id": "mappings", "value": []any{object{"type": "value", "options": mapping}}},
		object{"id": "custom.cellOptions", "value": object{"type": "color-text"}}}
	overrides := []any{}
	for _, field := range []string{"grade", "worst_grade", "severity", "policy_decision"} {
		if p.has(field) {
			overrides = append(overrides, object{"matcher": object{"id": "byName", "options": field}, "properties": words})
		}
	}
	for _, l := range columnLinks() {
		if p.has(l.field) {
			overrides = append(overrides, override(l.field, "links", l.links))
		}
	}
	for _, field := range p.shares {
		overrides = append(overrides, object{"matcher": object{"id": "byName", "options": field}, "properties": []any{
			object{"id": "unit", "value": "percentunit"}, object{"id": "min", "value": 0}, object{"id": "max", "value": 1},
			object{"id": "custom.cellOptions", "value": object{"type": "gauge", "mode": "basic"}}}})
	}
	for _, field := range sortedKeys(p.units) {
		overrides = append(overrides, override(field, "unit", p.units[field]))
	}
	return overrides
}

// has tells whether the query gives a column, by the name at the end of one
// of its expressions.
func (p *panel) has(field string) bool {
	return regexp.MustCompile(`[ ,]` + field + `[,\n]`).MatchString(p.sql)
}

type columnLink struct {
	field string
	links []any
}

// columnLinks lead from a cell to the page of what stands in it.
func columnLinks() []columnLink {
	link := func(title, url string, away bool) any { return object{"title": title, "url": url, "targetBlank": away} }
	return []columnLink{
		{"chain_id", []any{
			link("The chain here", "/d/catena-chain?var-chain=${__value.raw}&${__url_time_range}", false),
			link("The chain in catena", "${page}/chain/${__value.raw}", true)}},
		{"event_id", []any{link("The event in catena, with its evidence", "${page}/event/${__value.raw}", true)}},
		{"root_id", []any{link("What agents did for it", "/d/catena-agents?var-root=${__value.raw:percentencode}&${__url_time_range}", false)}},
	}
}
