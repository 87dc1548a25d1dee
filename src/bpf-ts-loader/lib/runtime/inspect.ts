/** Name of the method by which Node prints an object. */
export const inspect: unique symbol = Symbol.for('nodejs.util.inspect.custom') as typeof inspect;

/** What a record with members that share bytes looks like when printed: all of them. */
export function shown(record: object): Record<string, unknown> {
  const members: Record<string, unknown> = { ...record };
  for (const [name, property] of Object.entries(
    Object.getOwnPropertyDescriptors(Object.getPrototypeOf(record) as object),
  )) {
    if (property.get !== undefined) members[name] = property.get.call(record);
  }
  return members;
}
