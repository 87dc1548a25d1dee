/** Shell completion: made from the commands themselves, so that it knows all of them and their options. */

import { Argument, Command, type Option } from 'commander';

export function completionCommand(): Command {
  return new Command('completion')
    .description('print a completion script for a shell')
    .addArgument(new Argument('<shell>', 'for which shell').choices(['bash', 'zsh']))
    .addHelpText('after', `
Examples:
  colopp completion bash > /etc/bash_completion.d/colopp
  source <(colopp completion bash)             only in this shell
  source <(colopp completion zsh)              in ~/.zshrc, after compinit`)
    .action((shell: string, _options: unknown, command: Command) => {
      const bash = bashCompletion(command.parent!);
      process.stdout.write(shell === 'bash' ? bash : `autoload -Uz bashcompinit && bashcompinit\n${bash}`);
    });
}

/** How the value of an option is completed. */
type Values = { words: readonly string[] } | 'files' | 'labs' | 'none';

interface Node {
  /** The words that lead here, each with a blank in front. */
  path: string;
  words: string[];
  takesFiles: boolean;
  options: { flags: string[]; values: Values }[];
}

/** A script for bash, from version 4 on. Names of labs are looked up when they are completed. */
export function bashCompletion(program: Command): string {
  const nodes = nodesOf(program, '');
  const cases = (pick: (node: Node) => string[]): string => nodes.flatMap(pick).map((text) => `    ${text}\n`).join('');
  return `# completion of ${program.name()} for bash
_${program.name()}() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} path= word words=
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$path $word" in
      ${nodes.slice(1).map(({ path }) => `'${path}'`).join('|')}) path="$path $word" ;;
    esac
  done
  case "$path $prev" in
${cases(({ path, options }) => options.map(({ flags, values }) => `${flags.map((flag) => `'${path} ${flag}'`).join('|')}) ${complete(values)}return ;;`))}  esac
  case "$path" in
${cases(({ path, words, takesFiles }) => [`'${path}') words='${words.join(' ')}'${takesFiles ? '; COMPREPLY=($(compgen -f -- "$cur"))' : ''} ;;`])}  esac
  COMPREPLY+=($(compgen -W "$words" -- "$cur"))
}
complete -o filenames -F _${program.name()} ${program.name()}
`;
}

function nodesOf(command: Command, path: string): Node[] {
  const options = command.createHelp().visibleOptions(command);
  const subcommands = command.createHelp().visibleCommands(command);
  const args = command.registeredArguments;
  const node: Node = {
    path,
    words: [...subcommands.map((sub) => sub.name()), ...args.flatMap(({ argChoices }) => argChoices ?? []), ...options.flatMap(({ long }) => long ?? [])],
    takesFiles: args.some((argument) => /file/.test(argument.name())),
    options: options.filter(({ required, optional }) => required || optional).map((option) => ({
      flags: [option.long, option.short].filter((flag): flag is string => typeof flag === 'string'), values: valuesOf(option, path),
    })),
  };
  return [node, ...subcommands.flatMap((sub) => nodesOf(sub, `${path} ${sub.name()}`))];
}

/** As the option's own help says: `<file>`, `<a|b>`, or a lab's name. */
function valuesOf(option: Option, path: string): Values {
  if (option.argChoices) return { words: option.argChoices };
  const name = /[<[]([^>\]]+)[>\]]/.exec(option.flags)?.[1] ?? '';
  if (name.includes('|')) return { words: name.split('|') };
  if (/file|path|dir/.test(name)) return 'files';
  return option.long === '--lab' || (option.long === '--name' && path.startsWith(' lab')) ? 'labs' : 'none';
}

function complete(values: Values): string {
  if (values === 'none') return '';
  if (values === 'files') return 'COMPREPLY=($(compgen -f -- "$cur")); ';
  const words = values === 'labs' ? '$(ls /run/colopp/labs 2>/dev/null)' : values.words.join(' ');
  return `COMPREPLY=($(compgen -W "${words}" -- "$cur")); `;
}
