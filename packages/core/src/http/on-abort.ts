/** What a client that hangs up does where nobody says otherwise: nothing is lost when a read is cancelled. */
export function onAbortOf(method: string | undefined): 'cancel' | 'finish' {
  return method === 'GET' || method === 'HEAD' ? 'cancel' : 'finish'
}
