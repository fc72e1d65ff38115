/** The function that was given as password failed, or gave something else than a string. */
export class PasswordError extends Error {}

/** @throws PasswordError whose message shows nothing of what the function gave or threw. */
export async function passwordFrom(
  password: string | (() => string | Promise<string>) | undefined,
): Promise<string | undefined> {
  if (typeof password !== 'function') return password
  let given: unknown
  try {
    given = await password()
  } catch (cause) {
    throw new PasswordError('threw an error', { cause })
  }
  if (typeof given === 'string' && given !== '') return given
  throw new PasswordError(
    given === '' ? 'gave an empty string' : `gave ${given === null ? 'null' : typeof given}, not a string`,
  )
}
