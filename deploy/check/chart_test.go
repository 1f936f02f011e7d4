package check

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"
)

const chartDir = "../helm/catena"

func TestChartLint(t *testing.T) {
	result := lint.RunAll(chartDir, map[string]any{}, "catena")
	for _, m := range result.Messages {
		if m.Severity > support.InfoSev {
			t.Error(m)
		}
	}
}

// everything switches on what is off by default.
const everything = `
replicas: 3
canary: {enabled: true}
image: {repository: registry.example.com/catena, digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000"}
imagePullSecrets: [{name: registry}]
settings: {KAFKA_TOPICS: "okta,catena_canary", KAFKA_SASL_MECHANISM: SCRAM-SHA-512, KAFKA_SASL_USER: catena, CLICKHOUSE_ADDR: "clickhouses://ch:9440", BATCH_ROWS: 20000, KAFKA_TOPICS_REGEX: true}
secrets: {files: {KAFKA_SASL_PASSWORD: kafka-password}}
tls: {kafka: {existingSecret: kafka-tls, clientCertificate: true}, clickhouse: {existingSecret: ch-tls}}
sources: {existingConfigMap: own-sources}
serviceAccount: {annotations: {eks.amazonaws.com/role-arn: "arn:aws:iam::111122223333:role/catena"}}
serviceMonitor: {enabled: true, labels: {release: prometheus}}
networkPolicy: {ingressFrom: [], egressTo: [{ipBlock: {cidr: 192.0.2.0/24}}]}
podLabels: {team: security}
podAnnotations: {example.com/note: "yes"}
nodeSelector: {kubernetes.io/arch: amd64}
tolerations: [{operator: Exists}]
affinity: {nodeAffinity: {}}
priorityClassName: high
extraEnv: [{name: AWS_REGION, value: eu-central-1}]
extraVolumes: [{name: more, emptyDir: {}}]
extraVolumeMounts: [{name: more, mountPath: /more}]
`

// objects are what a chart renders, decoded as Kubernetes does, with no field
// that it does not know.
type objects struct {
	text       string
	config     core.ConfigMap
	deployment apps.Deployment
	service    core.Service
	account    core.ServiceAccount
	budget     *policy.PodDisruptionBudget
	network    *networking.NetworkPolicy
	monitor    *monitoring.ServiceMonitor

	canary        *apps.Deployment
	canaryService core.Service
	canaryMonitor *monitoring.ServiceMonitor
}

func load(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.Load(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func values(t *testing.T, text string) map[string]any {
	t.Helper()
	v := map[string]any{}
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func renderText(t *testing.T, release, text string) (string, error) {
	t.Helper()
	c := load(t)
	all, err := util.ToRenderValues(c, values(t, text), common.ReleaseOptions{Name: release, Namespace: "catena", Revision: 1, IsInstall: true}, nil)
	if err != nil {
		return "", err
	}
	files, err := engine.Engine{Strict: true}.Render(c, all)
	if err != nil {
		return "", err
	}
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	var out strings.Builder
	for _, name := range names {
		if strings.HasSuffix(name, ".txt") || strings.TrimSpace(files[name]) == "" {
			continue
		}
		fmt.Fprintf(&out, "---\n# %s\n%s\n", strings.TrimPrefix(name, "catena/templates/"), strings.TrimSpace(files[name]))
	}
	return out.String(), nil
}

func render(t *testing.T, text string) *objects {
	t.Helper()
	manifest, err := renderText(t, "catena", text)
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, manifest)
}

func decode(t *testing.T, manifest string) *objects {
	t.Helper()
	o := &objects{text: manifest}
	for _, doc := range regexp.MustCompile(`(?m)^---$`).Split(manifest, -1) {
		var kind struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
			Metadata   struct {
				Name string `json:"name"`
			} `json:"metadata"`
		}
		if err := yaml.Unmarshal([]byte(doc), &kind); err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		var into any
		what := kind.APIVersion + " " + kind.Kind
		if strings.HasSuffix(kind.Metadata.Name, "-canary") {
			what += " of the canary"
		}
		switch what {
		case " ":
			continue // comments
		case "apps/v1 Deployment of the canary":
			o.canary = &apps.Deployment{}
			into = o.canary
		case "v1 Service of the canary":
			into = &o.canaryService
		case "monitoring.coreos.com/v1 ServiceMonitor of the canary":
			o.canaryMonitor = &monitoring.ServiceMonitor{}
			into = o.canaryMonitor
		case "v1 ConfigMap":
			into = &o.config
		case "apps/v1 Deployment":
			into = &o.deployment
		case "v1 Service":
			into = &o.service
		case "v1 ServiceAccount":
			into = &o.account
		case "policy/v1 PodDisruptionBudget":
			o.budget = &policy.PodDisruptionBudget{}
			into = o.budget
		case "networking.k8s.io/v1 NetworkPolicy":
			o.network = &networking.NetworkPolicy{}
			into = o.network
		case "monitoring.coreos.com/v1 ServiceMonitor":
			o.monitor = &monitoring.ServiceMonitor{}
			into = o.monitor
		default:
			t.Fatalf("unexpected %s", what)
		}
		if err := yaml.UnmarshalStrict([]byte(doc), into); err != nil {
			t.Errorf("%s %s: %v\n%s", kind.APIVersion, kind.Kind, err, doc)
		}
	}
	return o
}

func TestChart(t *testing.T) {
	for name, text := range map[string]string{"defaults": "", "everything": everything, "one off": "networkPolicy: {enabled: false}\nserviceAccount: {create: false, name: other}"} {
		t.Run(name, func(t *testing.T) {
			o := render(t, text)
			o.checkPod(t)
			o.checkReferences(t)
			o.checkCanary(t)
			checkSettings(t, "chart", keys(o.config.Data))
		})
	}
}

// checkPod holds what a cluster's policies ask for.
func (o *objects) checkPod(t *testing.T) {
	pod := o.deployment.Spec.Template.Spec
	if s := pod.SecurityContext; s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.RunAsUser == nil || *s.RunAsUser == 0 || s.SeccompProfile == nil {
		t.Errorf("the pod's security context is %+v", s)
	}
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
		t.Error("the pod gets a token that it does not need")
	}
	if len(pod.Containers) != 1 {
		t.Fatalf("%d containers", len(pod.Containers))
	}
	c := pod.Containers[0]
	s := c.SecurityContext
	if s == nil || !*s.ReadOnlyRootFilesystem || *s.AllowPrivilegeEscalation || len(s.Capabilities.Drop) != 1 || s.Capabilities.Drop[0] != "ALL" {
		t.Errorf("the container's security context is %+v", s)
	}
	for _, p := range []*core.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
		if p == nil || p.HTTPGet == nil || p.HTTPGet.Port.String() != "http" {
			t.Errorf("probe %+v", p)
		}
	}
	if c.LivenessProbe.HTTPGet.Path == c.ReadinessProbe.HTTPGet.Path {
		t.Error("an instance that restores would be restarted")
	}
	limit, request := c.Resources.Limits[core.ResourceMemory], c.Resources.Requests[core.ResourceMemory]
	if limit.Cmp(request) != 0 {
		t.Errorf("memory: requested %s of %s: it would be the first to be evicted", request.String(), limit.String())
	}
	state := resource.MustParse(strings.TrimSuffix(o.config.Data["CATENA_MEMORY"], "B"))
	if need := 2*state.Value() + 1<<30; need > limit.Value() {
		t.Errorf("CATENA_MEMORY=%s needs %d MiB (docs/sizing.md), the limit is %s", o.config.Data["CATENA_MEMORY"], need>>20, limit.String())
	}
	if !pinned(c.Image) && !strings.Contains(c.Image, "@sha256:") {
		t.Errorf("image %s has no version", c.Image)
	}
	for _, m := range c.VolumeMounts {
		if m.SubPath != "" {
			t.Errorf("%s: a file that is mounted by subPath is never brought up to date", m.MountPath)
		}
		if !slices.ContainsFunc(pod.Volumes, func(v core.Volume) bool { return v.Name == m.Name }) {
			t.Errorf("%s: no volume %s", m.MountPath, m.Name)
		}
	}
}

// checkReferences: objects find each other by names and labels, and every file
// that a setting names lies in a folder that is mounted.
func (o *objects) checkReferences(t *testing.T) {
	labels := o.deployment.Spec.Template.Labels
	selects := func(what string, selector map[string]string) {
		t.Helper()
		if len(selector) == 0 {
			t.Errorf("%s selects everything", what)
		}
		for k, v := range selector {
			if labels[k] != v {
				t.Errorf("%s selects %s=%s, the pods have %q", what, k, v, labels[k])
			}
		}
	}
	selects("deployment", o.deployment.Spec.Selector.MatchLabels)
	selects("service", o.service.Spec.Selector)
	for _, c := range o.deployment.Spec.Template.Spec.TopologySpreadConstraints {
		selects("topology", c.LabelSelector.MatchLabels)
	}
	if o.network != nil {
		selects("network policy", o.network.Spec.PodSelector.MatchLabels)
	}
	if (o.budget != nil) != (*o.deployment.Spec.Replicas > 1) {
		t.Errorf("%d replicas and a disruption budget: %v; with one it would block every drain", *o.deployment.Spec.Replicas, o.budget != nil)
	}
	if o.budget != nil {
		selects("disruption budget", o.budget.Spec.Selector.MatchLabels)
	}
	if o.monitor != nil {
		for k, v := range o.monitor.Spec.Selector.MatchLabels {
			if o.service.Labels[k] != v {
				t.Errorf("the monitor selects %s=%s, the service has %q", k, v, o.service.Labels[k])
			}
		}
	}
	c := o.deployment.Spec.Template.Spec.Containers[0]
	if from := c.EnvFrom[0].ConfigMapRef.Name; from != o.config.Name {
		t.Errorf("settings come from %s, the ConfigMap is %s", from, o.config.Name)
	}
	if *o.deployment.Spec.Replicas > 1 && o.config.Data["CATENA_SHARE_TOPIC"] == "" {
		t.Error("several instances, and nothing through which they share what they know")
	}
	for name, path := range o.config.Data {
		if strings.HasPrefix(path, "/") && !slices.ContainsFunc(c.VolumeMounts, func(m core.VolumeMount) bool {
			return path == m.MountPath || strings.HasPrefix(path, m.MountPath+"/")
		}) {
			t.Errorf("%s=%s is mounted nowhere", name, path)
		}
	}
}

// checkCanary: it is as closed as the daemon, and nobody takes one for the other.
func (o *objects) checkCanary(t *testing.T) {
	if o.canary == nil {
		return
	}
	daemon, canary := o.deployment.Spec.Template, o.canary.Spec.Template
	if fmt.Sprint(daemon.Spec.SecurityContext) != fmt.Sprint(canary.Spec.SecurityContext) ||
		fmt.Sprint(daemon.Spec.Containers[0].SecurityContext) != fmt.Sprint(canary.Spec.Containers[0].SecurityContext) {
		t.Error("the canary runs with other rights than the daemon")
	}
	if fmt.Sprint(daemon.Spec.Volumes) != fmt.Sprint(canary.Spec.Volumes) {
		t.Error("the canary has other secrets than the daemon")
	}
	takes := func(selector, labels map[string]string) bool {
		for k, v := range selector {
			if labels[k] != v {
				return false
			}
		}
		return true
	}
	for what, selectors := range map[string][2]map[string]string{
		"deployment": {o.deployment.Spec.Selector.MatchLabels, o.canary.Spec.Selector.MatchLabels},
		"service":    {o.service.Spec.Selector, o.canaryService.Spec.Selector},
	} {
		if takes(selectors[0], canary.Labels) || takes(selectors[1], daemon.Labels) || !takes(selectors[1], canary.Labels) {
			t.Errorf("the %s of one selects the other, or not its own: %v", what, selectors)
		}
	}
	if o.budget != nil && takes(o.budget.Spec.Selector.MatchLabels, canary.Labels) {
		t.Error("the disruption budget counts the canary")
	}
	if o.network != nil && !takes(o.network.Spec.PodSelector.MatchLabels, canary.Labels) {
		t.Error("the network policy leaves the canary out")
	}
	if o.monitor != nil && (o.canaryMonitor == nil || takes(o.monitor.Spec.Selector.MatchLabels, o.canaryService.Labels) ||
		!takes(o.canaryMonitor.Spec.Selector.MatchLabels, o.canaryService.Labels)) {
		t.Error("the monitors mix daemon and canary up")
	}
}

// TestValues: every value is in the schema, and the schema refuses mistakes.
func TestValues(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"typing error":             {"replica: 3", "replica"},
		"secret in settings":       {"settings: {CLICKHOUSE_PASSWORD: x}", "CLICKHOUSE_PASSWORD"},
		"prefix in settings":       {"settings: {CATENA_SKEW: 1s}", "CATENA_SKEW"},
		"canary that nobody reads": {"canary: {enabled: true}", "must name catena_canary"},
		"no secret":                {`secrets: {existingSecret: ""}`, "existingSecret"},
		"digest without a hash":    {"image: {digest: latest}", "digest"},
		"too short to drain":       {"terminationGracePeriodSeconds: 10", "terminationGracePeriodSeconds"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := renderText(t, "catena", tc.text); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error about %s", err, tc.want)
			}
		})
	}
	if o := render(t, everything); !strings.HasSuffix(o.deployment.Spec.Template.Spec.Containers[0].Image, "@sha256:"+strings.Repeat("0", 64)) {
		t.Error("the digest is not used")
	}
}

// TestManifests: deploy/k8s/catena.yaml is the chart with deploy/k8s/values.yaml.
func TestManifests(t *testing.T) {
	manifest, err := renderText(t, "catena", string(read(t, "k8s/values.yaml")))
	if err != nil {
		t.Fatal(err)
	}
	const head = `# catena on Kubernetes without Helm: kubectl create namespace catena, make the Secret, then kubectl apply -f this.
# Made from the chart in deploy/helm with values.yaml beside it (make manifests); a test holds them equal.
#
#   kubectl -n catena create secret generic catena \
#     --from-literal=hmac-key="$(openssl rand -hex 32)" --from-literal=clickhouse-password=…
`
	// Helm is not the one who manages these.
	want := head + regexp.MustCompile(`(?m)^ *(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n`).ReplaceAllString(manifest, "")
	file := filepath.Join("..", "k8s", "catena.yaml")
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := string(read(t, "k8s/catena.yaml")); got != want {
		t.Error("deploy/k8s/catena.yaml is not what the chart renders: make manifests")
	}
	o := decode(t, want)
	o.checkPod(t)
	o.checkReferences(t)
	checkSettings(t, "manifests", keys(o.config.Data))
}
