# What the runbooks share; sourced, not run. Each stops at the first refusal and, run again, goes on from there: what was
# done is in the run's journal, and nothing is done twice.
# IRONGATE_CONFIG and IRONGATE_SITE say where this is; IRONGATE_BIN names another program than irongate; reports go to
# IRONGATE_REPORTS, or where this is run.
set -eu
irongate=${IRONGATE_BIN:-irongate}
number=0

# Says which step of the runbook this is.
step() {
    number=$((number + 1))
    printf '%s. %s\n' "$number" "$*"
}

# Checks and does a plan, or goes on with a run of it that was cut off; then files its report. $1 is the plan, the rest its
# arguments.
plan() {
    plan=$1
    shift
    unfinished=$("$irongate" runs --unfinished)
    case $unfinished in
        '')
            step "checking; nothing is changed"
            "$irongate" "$plan" "$@" --dry-run
            step "doing it"
            "$irongate" "$plan" "$@"
            ;;
        "$plan"-*)
            step "going on with run $unfinished"
            "$irongate" "$plan" "$@" --resume
            ;;
        *)
            echo "run $unfinished is not over: end it first" >&2
            exit 3
            ;;
    esac
    run=$("$irongate" runs --last)
    report=${IRONGATE_REPORTS:-.}/$run.html
    step "filing the report as $report"
    "$irongate" runs "$run" --html "$report"
    step "the groups, as they are now"
    "$irongate" info || true
}
