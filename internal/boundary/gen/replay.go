package main

import (
	"fmt"
	"strings"

	"github.com/tpm2-p11/tpm2-p11/internal/boundary"
)

// cReplayRules is cgo/replay_gen.c: what a transport that loses its other side must know of each call.
func cReplayRules() string {
	sessions := map[boundary.SessionEffect]string{boundary.Opens: "SESSION_OPENS", boundary.Closes: "SESSION_CLOSES", boundary.ClosesAll: "SESSION_CLOSES_ALL", boundary.Cancels: "SESSION_CANCELS"}
	steps := map[boundary.Step]string{boundary.Begins: "STEP_BEGINS", boundary.Continues: "STEP_CONTINUES", boundary.Uses: "STEP_USES", boundary.Ends: "STEP_ENDS"}
	var b strings.Builder
	fmt.Fprintf(&b, "/* %s */\n#include \"replay.h\"\n\nstatic const struct replay_rule rules[] = {\n", notice)
	last := 0
	for _, f := range boundary.Functions {
		var members []string
		if f.Changes || f.Once {
			members = append(members, ".once = true")
		}
		if effect := sessions[f.Session]; effect != "" {
			members = append(members, ".effect = "+effect)
		}
		if step := steps[f.Step]; step != "" {
			members = append(members, fmt.Sprintf(".step = %s, .operation = %d", step, f.Operation-1))
			if f.EndsWhenRefused() {
				members = append(members, ".ends_when_refused = true")
			}
			if f.Args[len(f.Args)-1].Kind == boundary.OutBuffer {
				members = append(members, ".ends_in_buffer = true")
			}
		}
		if f.Dispatched() && len(members) > 0 {
			fmt.Fprintf(&b, "\t[CALL_%s] = {%s},\n", f.Name, strings.Join(members, ", "))
			last = int(f.Number)
		}
	}
	fmt.Fprintf(&b, "};\n\nconst struct replay_rule *replay_rule(uint32_t number)\n{\n\tstatic const struct replay_rule plain;\n\n\treturn number <= %d ? &rules[number] : &plain;\n}\n", last)
	b.WriteString("\nconst CK_FLAGS replay_operation_flags[OPERATIONS] = {\n")
	for _, flag := range boundary.Operations[1:] {
		fmt.Fprintf(&b, "\t0x%x,\n", flag)
	}
	b.WriteString("};\n")
	return b.String()
}
