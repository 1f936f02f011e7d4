package sources

import (
	"fmt"
	"slices"
	"strings"
)

// envelopeName begins the paths that lead to what is known of a record from
// outside of it. The decoder fills them; a member of that name in a document is
// never read, so that no record can tell such things of itself.
const envelopeName = "$envelope"

// envelopeMembers is the closed list of what topics and envelopes may know.
var envelopeMembers = []string{
	"scope", "topic", // of Kafka; the scope is configured, and the topic's name otherwise
	"position", "timestamp", // topic/partition/offset/index; when Kafka got the record
	"host", "node", "namespace", "pod", "pod_uid", "container", "container_id", // where the sender ran
	"log_group", "log_stream", "account", "region", // of AWS
	"source", "type", "id", "time", "resource", // of CloudEvents, EventBridge, Azure, Pub/Sub
}

// EnvelopeMembers returns the names behind $envelope.
func EnvelopeMembers() []string { return slices.Clone(envelopeMembers) }

// Envelope returns which of the EnvelopeMembers a path reads, or which of the
// record's headers; both are empty for a path into the document.
func (p Path) Envelope() (member, header string) {
	switch {
	case len(p) < 2 || p[0].Name != envelopeName:
	case len(p) == 2 && slices.Contains(envelopeMembers, p[1].Name):
		return p[1].Name, ""
	case len(p) == 3 && p[1].Name == "header" && p[2].Op == Member:
		return "", p[2].Name
	}
	return "", ""
}

// checkEnvelope refuses paths into $envelope that lead nowhere.
func checkEnvelope(p Path) error {
	if member, header := p.Envelope(); p[0].Name == envelopeName && member == "" && header == "" {
		return fmt.Errorf("%q leads nowhere: there are %s.%s and .header.NAME", p.String(), envelopeName, strings.Join(envelopeMembers, ", ."))
	}
	return nil
}
