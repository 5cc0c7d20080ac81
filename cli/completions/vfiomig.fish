# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_vfiomig_global_optspecs
    string join \n sysroot= h/help V/version
end

function __fish_vfiomig_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_vfiomig_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_vfiomig_using_subcommand
    set -l cmd (__fish_vfiomig_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c vfiomig -n "__fish_vfiomig_needs_command" -l sysroot -r -F
complete -c vfiomig -n "__fish_vfiomig_needs_command" -s h -l help -d 'Print help'
complete -c vfiomig -n "__fish_vfiomig_needs_command" -s V -l version -d 'Print version'
complete -c vfiomig -n "__fish_vfiomig_needs_command" -f -a "probe" -d 'Says what VFIO devices can do, and why they cannot migrate, or not well'
complete -c vfiomig -n "__fish_vfiomig_needs_command" -f -a "inspect" -d 'Shows what is in a stream or checkpoint, whole or not'
complete -c vfiomig -n "__fish_vfiomig_needs_command" -f -a "verify" -d 'Says whether a stream or checkpoint is whole, and where it is not'
complete -c vfiomig -n "__fish_vfiomig_needs_command" -f -a "diff" -d 'Says what differs between two streams, or two devices of checkpoints'
complete -c vfiomig -n "__fish_vfiomig_needs_command" -f -a "extract" -d 'Writes a part of a stream or checkpoint into a file of its own'
complete -c vfiomig -n "__fish_vfiomig_needs_command" -f -a "compat" -d 'Says whether one device may take another one\'s state, and why not'
complete -c vfiomig -n "__fish_vfiomig_needs_command" -f -a "checkpoint" -d 'Writes the state of devices whose guest does not run into a file'
complete -c vfiomig -n "__fish_vfiomig_needs_command" -f -a "restore" -d 'Loads a checkpoint into devices whose guest does not run'
complete -c vfiomig -n "__fish_vfiomig_needs_command" -f -a "reset" -d 'Resets a device that an earlier user left in the middle of a migration'
complete -c vfiomig -n "__fish_vfiomig_needs_command" -f -a "policy" -d 'Says whether a policy file is right: see vfiomig-policy(5)'
complete -c vfiomig -n "__fish_vfiomig_needs_command" -f -a "completions" -d 'Prints completions for a shell'
complete -c vfiomig -n "__fish_vfiomig_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand probe" -l identity -d 'Write what the one DEVICE is into a file, for another host to judge' -r -F
complete -c vfiomig -n "__fish_vfiomig_using_subcommand probe" -l sysroot -r -F
complete -c vfiomig -n "__fish_vfiomig_using_subcommand probe" -l all -d 'Probe every device that has to do with VFIO, SR-IOV or mediated devices'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand probe" -l json -d 'Print JSON, as docs/schema describes it'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand probe" -s h -l help -d 'Print help'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand inspect" -l decoder -d 'A shared object whose code names the fields of the device\'s data; it runs as a part of the tool' -r
complete -c vfiomig -n "__fish_vfiomig_using_subcommand inspect" -l key-file -d 'The key of an authenticated stream: 32 bytes, or 64 hexadecimal digits' -r
complete -c vfiomig -n "__fish_vfiomig_using_subcommand inspect" -l sysroot -r -F
complete -c vfiomig -n "__fish_vfiomig_using_subcommand inspect" -l json -d 'Print JSON, as docs/schema describes it'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand inspect" -s h -l help -d 'Print help'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand verify" -l key-file -d 'The key of an authenticated stream: 32 bytes, or 64 hexadecimal digits' -r
complete -c vfiomig -n "__fish_vfiomig_using_subcommand verify" -l sysroot -r -F
complete -c vfiomig -n "__fish_vfiomig_using_subcommand verify" -l json -d 'Print JSON, as docs/schema describes it'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand verify" -s h -l help -d 'Print help'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand diff" -l decoder -d 'A shared object whose code names the fields of the device\'s data; it runs as a part of the tool' -r
complete -c vfiomig -n "__fish_vfiomig_using_subcommand diff" -l key-file -d 'The key of an authenticated stream: 32 bytes, or 64 hexadecimal digits' -r
complete -c vfiomig -n "__fish_vfiomig_using_subcommand diff" -l sysroot -r -F
complete -c vfiomig -n "__fish_vfiomig_using_subcommand diff" -l json -d 'Print JSON, as docs/schema describes it'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand diff" -s h -l help -d 'Print help'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand extract" -s o -l output -d 'Where to write: under that name when it is whole, not at all otherwise' -r
complete -c vfiomig -n "__fish_vfiomig_using_subcommand extract" -l device -d 'Which device of a checkpoint, or of QEMU\'s file, with several' -r
complete -c vfiomig -n "__fish_vfiomig_using_subcommand extract" -l identity -d 'What the device was that QEMU saved, for a stream: as for compat; QEMU does not say' -r
complete -c vfiomig -n "__fish_vfiomig_using_subcommand extract" -l key-file -d 'The key of an authenticated stream: 32 bytes, or 64 hexadecimal digits' -r
complete -c vfiomig -n "__fish_vfiomig_using_subcommand extract" -l sysroot -r -F
complete -c vfiomig -n "__fish_vfiomig_using_subcommand extract" -l damaged -d 'Write what there is, even if the stream is not whole'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand extract" -s h -l help -d 'Print help'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand compat" -l rule -d 'What must hold of a field: ignore, if-known, as-target, exact, require, one-of:A,B, pairs:A>B,C>D, range:MIN..MAX' -r
complete -c vfiomig -n "__fish_vfiomig_using_subcommand compat" -l ignore -d 'Short for --rule FIELD=ignore' -r
complete -c vfiomig -n "__fish_vfiomig_using_subcommand compat" -l others -d 'For all fields that are compared and have no rule: ignore, if-known, as-target, exact' -r
complete -c vfiomig -n "__fish_vfiomig_using_subcommand compat" -l key-file -d 'The key of an authenticated stream: 32 bytes, or 64 hexadecimal digits' -r
complete -c vfiomig -n "__fish_vfiomig_using_subcommand compat" -l sysroot -r -F
complete -c vfiomig -n "__fish_vfiomig_using_subcommand compat" -l json -d 'Print JSON, as docs/schema describes it'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand compat" -s h -l help -d 'Print help'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand checkpoint" -s o -l output -d 'Where to write' -r
complete -c vfiomig -n "__fish_vfiomig_using_subcommand checkpoint" -l generation -d 'A number of yours for it' -r
complete -c vfiomig -n "__fish_vfiomig_using_subcommand checkpoint" -l note -d 'A note of yours in it, at most 4096 bytes' -r
complete -c vfiomig -n "__fish_vfiomig_using_subcommand checkpoint" -l key-file -d 'The key of an authenticated stream: 32 bytes, or 64 hexadecimal digits' -r
complete -c vfiomig -n "__fish_vfiomig_using_subcommand checkpoint" -l history -d 'Print what happened to the devices on standard error: text, if it fails; json, always' -r -f -a "text\t''
json\t''"
complete -c vfiomig -n "__fish_vfiomig_using_subcommand checkpoint" -l sysroot -r -F
complete -c vfiomig -n "__fish_vfiomig_using_subcommand checkpoint" -l no-sync -d 'Do not wait until it is on the disk'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand checkpoint" -l json -d 'Print JSON, as docs/schema describes it'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand checkpoint" -s h -l help -d 'Print help'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand restore" -l rule -d 'What must hold of a field: ignore, if-known, as-target, exact, require, one-of:A,B, pairs:A>B,C>D, range:MIN..MAX' -r
complete -c vfiomig -n "__fish_vfiomig_using_subcommand restore" -l ignore -d 'Short for --rule FIELD=ignore' -r
complete -c vfiomig -n "__fish_vfiomig_using_subcommand restore" -l others -d 'For all fields that are compared and have no rule: ignore, if-known, as-target, exact' -r
complete -c vfiomig -n "__fish_vfiomig_using_subcommand restore" -l key-file -d 'The key of an authenticated stream: 32 bytes, or 64 hexadecimal digits' -r
complete -c vfiomig -n "__fish_vfiomig_using_subcommand restore" -l history -d 'Print what happened to the devices on standard error: text, if it fails; json, always' -r -f -a "text\t''
json\t''"
complete -c vfiomig -n "__fish_vfiomig_using_subcommand restore" -l sysroot -r -F
complete -c vfiomig -n "__fish_vfiomig_using_subcommand restore" -l run -d 'Take the devices to RUNNING afterwards'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand restore" -l json -d 'Print JSON, as docs/schema describes it'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand restore" -s h -l help -d 'Print help'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand reset" -l history -d 'Print what happened to the devices on standard error: text, if it fails; json, always' -r -f -a "text\t''
json\t''"
complete -c vfiomig -n "__fish_vfiomig_using_subcommand reset" -l sysroot -r -F
complete -c vfiomig -n "__fish_vfiomig_using_subcommand reset" -s y -l yes -d 'Do not ask'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand reset" -l running -d 'Also a device that is RUNNING, and has not been left behind'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand reset" -l json -d 'Print JSON, as docs/schema describes it'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand reset" -s h -l help -d 'Print help'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand policy; and not __fish_seen_subcommand_from check help" -l sysroot -r -F
complete -c vfiomig -n "__fish_vfiomig_using_subcommand policy; and not __fish_seen_subcommand_from check help" -s h -l help -d 'Print help'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand policy; and not __fish_seen_subcommand_from check help" -f -a "check" -d 'Checks a policy file'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand policy; and not __fish_seen_subcommand_from check help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand policy; and __fish_seen_subcommand_from check" -l sysroot -r -F
complete -c vfiomig -n "__fish_vfiomig_using_subcommand policy; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand policy; and __fish_seen_subcommand_from help" -f -a "check" -d 'Checks a policy file'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand policy; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand completions" -l sysroot -r -F
complete -c vfiomig -n "__fish_vfiomig_using_subcommand completions" -s h -l help -d 'Print help'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand help; and not __fish_seen_subcommand_from probe inspect verify diff extract compat checkpoint restore reset policy completions help" -f -a "probe" -d 'Says what VFIO devices can do, and why they cannot migrate, or not well'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand help; and not __fish_seen_subcommand_from probe inspect verify diff extract compat checkpoint restore reset policy completions help" -f -a "inspect" -d 'Shows what is in a stream or checkpoint, whole or not'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand help; and not __fish_seen_subcommand_from probe inspect verify diff extract compat checkpoint restore reset policy completions help" -f -a "verify" -d 'Says whether a stream or checkpoint is whole, and where it is not'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand help; and not __fish_seen_subcommand_from probe inspect verify diff extract compat checkpoint restore reset policy completions help" -f -a "diff" -d 'Says what differs between two streams, or two devices of checkpoints'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand help; and not __fish_seen_subcommand_from probe inspect verify diff extract compat checkpoint restore reset policy completions help" -f -a "extract" -d 'Writes a part of a stream or checkpoint into a file of its own'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand help; and not __fish_seen_subcommand_from probe inspect verify diff extract compat checkpoint restore reset policy completions help" -f -a "compat" -d 'Says whether one device may take another one\'s state, and why not'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand help; and not __fish_seen_subcommand_from probe inspect verify diff extract compat checkpoint restore reset policy completions help" -f -a "checkpoint" -d 'Writes the state of devices whose guest does not run into a file'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand help; and not __fish_seen_subcommand_from probe inspect verify diff extract compat checkpoint restore reset policy completions help" -f -a "restore" -d 'Loads a checkpoint into devices whose guest does not run'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand help; and not __fish_seen_subcommand_from probe inspect verify diff extract compat checkpoint restore reset policy completions help" -f -a "reset" -d 'Resets a device that an earlier user left in the middle of a migration'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand help; and not __fish_seen_subcommand_from probe inspect verify diff extract compat checkpoint restore reset policy completions help" -f -a "policy" -d 'Says whether a policy file is right: see vfiomig-policy(5)'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand help; and not __fish_seen_subcommand_from probe inspect verify diff extract compat checkpoint restore reset policy completions help" -f -a "completions" -d 'Prints completions for a shell'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand help; and not __fish_seen_subcommand_from probe inspect verify diff extract compat checkpoint restore reset policy completions help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c vfiomig -n "__fish_vfiomig_using_subcommand help; and __fish_seen_subcommand_from policy" -f -a "check" -d 'Checks a policy file'
