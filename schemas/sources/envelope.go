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
	"host", "node", "namespace", "pod", "pod_uid", "container", "container_id", // where the sender ran
	"log_group", "log_stream", "account", "region", // of AWS
	"source", "type", "id", "time", "resource", // of CloudEvents, EventBridge, Azure, Pub/Sub
}

// EnvelopeMembers returns the names behind $envelope.
func EnvelopeMembers() []string { return slices.Clone(envelopeMembers) }

// EnvelopeMember returns which of the EnvelopeMembers a path reads; -1 for a
// path into the document.
func (p Path) EnvelopeMember() int {
	if len(p) != 2 || p[0].Name != envelopeName {
		return -1
	}
	return slices.Index(envelopeMembers, p[1].Name)
}

// checkEnvelope refuses paths into $envelope that lead nowhere.
func checkEnvelope(p Path) error {
	if p[0].Name == envelopeName && p.EnvelopeMember() < 0 {
		return fmt.Errorf("%q leads nowhere: there are %s.%s", p.String(), envelopeName, strings.Join(envelopeMembers, ", ."))
	}
	return nil
}
