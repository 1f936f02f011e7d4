// Command catena ties runtime actions to the identities that drove them: it
// reads auth logs, cloud audit trails and AI-agent telemetry from Kafka, joins
// them in memory, and writes attribution chains to ClickHouse.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// version is set by the linker.
var version = "dev"

// Exit codes, as `catena --help` documents them.
const (
	exitOK      = 0
	exitFailure = 1 // the work could not be done or finished
	exitUsage   = 2 // wrong arguments or configuration
	exitFound   = 3 // it worked, and some records could not be decoded, verify found something, or the canary did not come out
)

// command is one subcommand. run gets the arguments behind its name.
type command struct {
	name, args, short string
	help              string
	run               func(ctx context.Context, env *environment, c *command, args []string) error
}

// environment is all that a command may touch of the process, so that tests
// run the same program.
type environment struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	terminal       bool // stdout is a terminal: colours, progress bars
}

// colour reports whether what is printed may be in colour: on a terminal, unless
// NO_COLOR says otherwise (no-color.org).
func (e *environment) colour() bool { return e.terminal && e.getenv("NO_COLOR") == "" }

func commands() []command {
	return []command{
		runCommand, demoCommand, clickhouseCommand, stitchCommand, explainCommand,
		replayCommand, sourcesCommand, migrateCommand, verifyCommand, deadlettersCommand, backfillCommand, doctorCommand,
		canaryCommand,
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	env := &environment{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, terminal: isTerminal(os.Stdout)}
	code := run(ctx, env, os.Args[1:])
	stop()
	os.Exit(code)
}

// run does what the arguments say and returns the exit code.
func run(ctx context.Context, env *environment, args []string) int {
	if len(args) == 0 || args[0] == "help" && len(args) == 1 || args[0] == "--help" || args[0] == "-h" {
		printUsage(env.stdout)
		return exitOK
	}
	if args[0] == "version" || args[0] == "--version" {
		fmt.Fprintln(env.stdout, "catena", version)
		return exitOK
	}
	if args[0] == "help" {
		args = []string{args[1], "--help"}
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return report(env, c.name, c.run(ctx, env, &c, args[1:]))
		}
	}
	fmt.Fprintf(env.stderr, "catena: there is no command %q; `catena --help` lists them\n", args[0])
	return exitUsage
}

// report turns a command's error into words and an exit code.
func report(env *environment, name string, err error) int {
	var usage usageError
	var code exitError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &usage):
		fmt.Fprintf(env.stderr, "catena %s: %v\n`catena %s --help` explains\n", name, err, name)
		return exitUsage
	default:
		fmt.Fprintf(env.stderr, "catena %s: %v\n", name, err)
		return exitFailure
	}
}

// usageError is a mistake in the arguments or the configuration.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitError ends the program with a code and without another word.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func printUsage(w io.Writer) {
	fmt.Fprint(w, `catena: who or what drove this action, under which authority, through which path, and how is that known

usage: catena <command> [flags] [arguments]

`)
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-12s %s\n", c.name, c.short)
	}
	fmt.Fprint(w, `
catena <command> --help explains a command, catena run --help every setting.

exit codes: 0 done; 1 the work could not be done or finished; 2 wrong arguments or
configuration; 3 it worked, and some records could not be decoded (stitch, sources test),
something was found (verify), or did not come out (canary)
`)
}

// parse reads a command's flags. --help prints the command's own page.
func (c *command) parse(env *environment, fs *flag.FlagSet, args []string) ([]string, error) {
	fs.Init(c.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	var rest []string
	for { // flags may stand behind arguments
		err := fs.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			c.printHelp(env.stdout, fs)
			return nil, err
		}
		if err != nil {
			return nil, usageError{err}
		}
		if fs.NArg() == 0 {
			return rest, nil
		}
		rest, args = append(rest, fs.Arg(0)), fs.Args()[1:]
	}
}

func (c *command) printHelp(w io.Writer, fs *flag.FlagSet) {
	fmt.Fprintf(w, "usage: catena %s %s\n\n%s\n", c.name, c.args, strings.TrimSpace(c.help))
	first := true
	fs.VisitAll(func(f *flag.Flag) {
		if first {
			fmt.Fprint(w, "\nflags:\n")
			first = false
		}
		value := ""
		if b, ok := f.Value.(interface{ IsBoolFlag() bool }); !ok || !b.IsBoolFlag() {
			value = " value"
			if f.DefValue != "" {
				value = " " + f.DefValue
			}
		}
		fmt.Fprintf(w, "  --%-26s %s\n", f.Name+value, f.Usage)
	})
}

// isTerminal reports whether a file is a terminal.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
