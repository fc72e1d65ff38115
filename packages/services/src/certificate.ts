import { generate } from 'selfsigned'

/** A fresh self-signed certificate for `localhost` and 127.0.0.1, as PEM. */
export async function selfSignedCertificate(): Promise<{ key: string; certificate: string }> {
  const { private: key, cert } = await generate([{ name: 'commonName', value: 'localhost' }], {
    keySize: 2048,
    algorithm: 'sha256',
    extensions: [
      { name: 'basicConstraints', cA: true },
      {
        name: 'subjectAltName',
        altNames: [
          { type: 2, value: 'localhost' },
          { type: 7, ip: '127.0.0.1' },
        ],
      },
    ],
  })
  return { key, certificate: cert }
}
